/** The title of a view, with the figures that all views share. */

import { element, setText } from "./dom.js";
import { Plot } from "./plot.js";
import { grouped } from "./words.js";

/** How long the revision stays lit after it moved, in milliseconds. */
const LIT = 1000;

export class Header {
    #lastRevision = -1;
    #litUntil = 0;

    constructor(page, root) {
        this.page = page;
        this.above = element("p", { class: "above" });
        this.heading = element("h1", {});
        this.plot = new Plot({ width: 120, height: 24, label: "Writes a second, the last five minutes" });
        this.rate = element("span", {});
        this.revision = element("b", { class: "revision", "data-testid": "revision" }, "…");
        this.exact = element("b", {}, "…");
        this.copy = element("span", {}, "this copy");
        this.trouble = element("p", { class: "trouble", role: "status" });
        root.append(
            element("div", { class: "title" }, this.above, this.heading),
            element("div", { class: "figures" },
                element("div", { class: "rate" }, this.plot.element, this.rate),
                element("div", {}, this.revision, element("span", {}, "revision")),
                element("div", {}, this.exact, this.copy)),
            this.trouble);
    }

    /** @param {{ href: string, text: string }} [above] the view that this one belongs to */
    setTitle(title, above) {
        setText(this.heading, title);
        this.above.replaceChildren(...(above === undefined ? [] : [element("a", { href: above.href }, above.text)]));
    }

    render() {
        const { copy, rate } = this.page;
        const now = Date.now();
        if (copy.document !== undefined) {
            if (this.#lastRevision >= 0 && copy.revision !== this.#lastRevision) this.#litUntil = now + LIT;
            this.#lastRevision = copy.revision;
            setText(this.revision, grouped(copy.revision));
        }
        this.revision.classList.toggle("lit", now < this.#litUntil);
        setText(this.exact, copy.document === undefined ? "loading" : copy.isExact ? "exact" : "on the way");
        this.exact.className = copy.isExact ? (copy.isOpen ? "good" : "stale") : "way";
        setText(this.copy, copy.isOpen || copy.document === undefined ? "this copy" : "not connected");
        const writes = rate.now;
        setText(this.rate, `${writes >= 10 || writes === 0 ? grouped(Math.round(writes)) : writes.toFixed(1)} writes/s`);
        if (rate.counts.length !== this.#drawn) this.plot.render(rate.counts);
        this.#drawn = rate.counts.length;
        setText(this.trouble, copy.connection === "waiting" ? `Not connected: ${copy.trouble}. The copy is kept, and goes on from ${copy.id} as soon as the service answers.` : "");
    }

    #drawn = -1;
}
