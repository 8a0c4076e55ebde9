/** The title of a view, with the figures that all views share. */

import { element, setText } from "./dom.js";
import { Plot } from "./plot.js";
import { grouped } from "./words.js";

/** How long the revision stays lit after it moved, in milliseconds. */
const LIT = 1000;

export class Header {
    #shown = -1;
    #litUntil = 0;

    constructor(page, root) {
        this.page = page;
        this.above = element("p", { class: "soft" });
        this.heading = element("h1");
        this.plot = new Plot({ width: 120, height: 24, label: "Writes a second, the last five minutes" });
        this.rate = element("span");
        this.revision = element("b", { class: "revision", "data-testid": "revision" }, "…");
        this.exact = element("b");
        this.copy = element("span");
        this.trouble = element("p", { class: "problem", role: "status" });
        root.append(
            element("div", {}, this.above, this.heading),
            element("div", { class: "figures" },
                element("div", { class: "rate" }, this.plot.element, this.rate),
                element("div", {}, this.revision, element("span", {}, "revision")),
                element("div", {}, this.exact, this.copy)),
            this.trouble);
    }

    setTitle({ title, above }) {
        setText(this.heading, title);
        this.above.replaceChildren(...(above === undefined ? [] : [element("a", { href: above.href }, above.text)]));
    }

    render() {
        const { copy, rate } = this.page;
        const isLoaded = copy.document !== undefined;
        if (isLoaded && copy.revision !== this.#shown) {
            if (this.#shown >= 0) this.#litUntil = Date.now() + LIT;
            this.#shown = copy.revision;
            setText(this.revision, grouped(copy.revision));
        }
        this.revision.classList.toggle("lit", Date.now() < this.#litUntil);
        setText(this.exact, !isLoaded ? "loading" : copy.isExact ? "exact" : "on the way");
        this.exact.className = copy.isExact && copy.isOpen ? "good" : "stale";
        setText(this.copy, copy.isOpen || !isLoaded ? "this copy" : "not connected");
        setText(this.rate, `${rate.now > 0 && rate.now < 10 ? rate.now.toFixed(1) : grouped(Math.round(rate.now))} writes/s`);
        this.plot.render(rate.counts);
        setText(this.trouble, copy.connection === "waiting" ? `Not connected: ${copy.trouble}.${copy.id && ` The copy is kept, and goes on from ${copy.id}.`}` : "");
    }
}
