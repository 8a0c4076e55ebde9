/** The column of views, with the number of aggregates in each collection. */

import { element, setText } from "./dom.js";
import { links } from "./router.js";
import { forgetButton } from "./token.js";
import { age } from "./words.js";

export class Navigation {
    #counts = new Map();
    #entries = [];

    constructor(page, root) {
        const { collections, journal, projections, metrics, docs, version, token } = page.index;
        this.page = page;
        this.epoch = element("span", { class: "mono" });
        this.last = element("span");
        const group = (title, ...entries) => [element("h2", {}, title), element("ul", {}, entries)];
        root.append(
            element("a", { class: "brand", href: "#/" }, "duality ", element("small", { class: "mono" }, location.host)),
            ...group("Collections", collections.map((collection) => this.#entry(collection.name, links.collection(collection), "duality", collection.name)),
                token?.hidden.map((name) => element("li", { class: "soft" }, `${name}: no access`))),
            ...group("Happening", this.#entry("Feed", links.feed(), "feed"), journal && this.#entry("Journal", links.journal, "journal")),
            ...group("Derived", this.#entry(projections ? "Projections" : "Reports", links.projections, "projections")),
            ...group("Service", metrics && this.#entry("Everything live", "#/service", "service"), docs && this.#entry("API", docs)),
            element("p", { class: "foot" }, "epoch ", this.epoch, element("br"), this.last, element("br"), `version ${version}`),
            element("p", { class: "row soft" }, token && `${token.name}: ${token.scopes.join(", ")}`, forgetButton()));
    }

    #entry(text, href, view, name) {
        const number = element("span", { class: "mono soft" });
        if (name !== undefined) this.#counts.set(name, number);
        const link = element("a", { href }, element("span", {}, text), " ", number);
        this.#entries.push({ link, view, name });
        return element("li", {}, link);
    }

    setCurrent({ view, collection }) {
        const wanted = { aggregate: "duality", reports: "projections" }[view] ?? view;
        for (const entry of this.#entries) {
            if (entry.view === wanted && (entry.name ?? collection?.name) === collection?.name) entry.link.setAttribute("aria-current", "page");
            else entry.link.removeAttribute("aria-current");
        }
    }

    render() {
        const { copy } = this.page;
        for (const [name, node] of this.#counts) setText(node, this.page.countText(name));
        setText(this.epoch, copy.epoch || "…");
        setText(this.last, copy.lastTime === 0 ? "no write so far" : `last write ${age(copy.lastTime)} ago`);
    }
}
