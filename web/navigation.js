/** The column of views, with the number of aggregates in each collection. */

import { element, setText } from "./dom.js";
import { links } from "./router.js";
import { isObject, member } from "./patch.js";
import { age, grouped } from "./words.js";

export class Navigation {
    #counts = new Map();
    #entries = [];

    constructor(page, root) {
        this.page = page;
        this.root = root;
        this.epoch = element("span", { class: "mono" });
        this.last = element("span");
        const { index } = page;
        const collections = index.collections.map((collection) => this.#entry(collection.name, links.collection(collection), { view: "duality", name: collection.name }));
        const foot = element("p", { class: "foot" }, "epoch ", this.epoch, element("br"), this.last, element("br"), `version ${index.version}`);
        root.append(
            element("a", { class: "brand", href: "#/" }, "duality ", element("small", { class: "mono" }, location.host)),
            element("h2", {}, "Collections"), element("ul", {}, collections),
            element("h2", {}, "Happening"), element("ul", {},
                this.#entry("Feed", links.feed(), { view: "feed" }),
                index.journal === undefined ? null : this.#entry("Journal", links.journal(), { view: "journal" })),
            element("h2", {}, "Derived"), element("ul", {}, index.projections === undefined ? null : this.#entry("Projections", links.projections(), { view: "projections" })),
            element("h2", {}, "Service"), element("ul", {},
                this.#entry("Everything live", links.service(), { view: "service" }),
                index.docs === undefined ? null : element("li", {}, element("a", { href: index.docs }, element("span", {}, "API")))),
            foot);
    }

    #entry(name, href, target) {
        const number = element("span", { class: "mono count" });
        if (target.name !== undefined) this.#counts.set(target.name, number);
        const link = element("a", { href }, element("span", { class: "word" }, name), " ", number);
        this.#entries.push({ link, target });
        return element("li", {}, link);
    }

    /** Marks the view that is shown. */
    setCurrent({ view, collection }) {
        const wanted = { aggregate: "duality", reports: "projections" }[view] ?? view;
        for (const { link, target } of this.#entries) {
            const isCurrent = target.view === wanted && (target.name === undefined || target.name === collection?.name);
            if (isCurrent) link.setAttribute("aria-current", "page");
            else link.removeAttribute("aria-current");
        }
    }

    render() {
        const { copy, loaded } = this.page;
        for (const [name, node] of this.#counts) {
            const state = member(copy.document, name);
            const isKnown = loaded.has(name) && copy.document !== undefined;
            setText(node, isKnown ? grouped(isObject(state) ? Object.keys(state).length : 0) : loaded.has(name) ? "…" : "long");
        }
        setText(this.epoch, copy.epoch || "…");
        setText(this.last, copy.lastTime === 0 ? "no write since this page was opened" : `last write ${age(copy.lastTime)} ago`);
    }
}
