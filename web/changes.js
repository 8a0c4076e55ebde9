/** The last messages of a feed, newest first. */

import { button, element, setText } from "./dom.js";
import { coloured } from "./json_text.js";
import { age, grouped } from "./words.js";

const MOST_SHOWN = 40;

/** Characters that are shown; all are copied. */
const MOST_CHARACTERS = 1200;

export class Changes {
    entries = [];
    #nodes = new Map();

    /** The option `point` is called while the pointer or the focus is on a message, `pick` when it is chosen. */
    constructor(options) {
        this.options = options;
        this.most = options.most ?? MOST_SHOWN;
        this.element = element("ol", { class: "messages", tabindex: "0", "aria-label": options.label });
    }

    add(entry) {
        this.entries.unshift({ ...entry });
        if (this.entries.length > this.most) this.entries.pop();
    }

    /** Adds entries from before, oldest first, unless they have arrived meanwhile. */
    addPast(entries) {
        const first = Math.min(...this.entries.map(({ revision }) => revision ?? Infinity));
        this.entries.push(...entries.filter(({ revision }) => revision < first).reverse());
        this.entries.length = Math.min(this.entries.length, this.most);
    }

    json() {
        const messages = this.entries.filter(({ note }) => note === undefined).reverse();
        return `[\n${messages.map(({ id, text }) => `  {"id":${JSON.stringify(id ?? null)},"data":${text}}`).join(",\n")}\n]`;
    }

    render() {
        const shown = new Set(this.entries);
        for (const [entry, node] of this.#nodes) {
            if (shown.has(entry)) continue;
            node.remove();
            this.#nodes.delete(entry);
        }
        let place = this.element.firstChild;
        for (const entry of this.entries) {
            if (!this.#nodes.has(entry)) this.#nodes.set(entry, this.#node(entry));
            const node = this.#nodes.get(entry);
            if (node === place) place = place.nextSibling;
            else this.element.insertBefore(node, place);
            if (entry.head === undefined) setText(node.lastChild, entry.time === undefined ? "before" : age(entry.time));
        }
    }

    #node(entry) {
        const { pick, point } = this.options;
        const { note, text, id = "", revision, head } = entry;
        if (note !== undefined) return element("li", { class: `note ${note}` }, element("p", {}, text), element("time"));
        const label = `${revision === undefined ? "no id" : grouped(revision)}${id.includes(".partial") ? " partial" : ""}`;
        const watch = point && { onpointerenter: () => point(entry), onpointerleave: () => point(), onfocusin: () => point(entry), onfocusout: () => point() };
        return element("li", { class: "message", ...watch },
            pick === undefined ? element("span", { class: "label" }, label) : button(label, () => pick(entry), { class: "label link" }),
            element("div", {}, head?.(), element("pre", {}, coloured(text, MOST_CHARACTERS))), element("time"));
    }
}
