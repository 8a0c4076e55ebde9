/** The messages of a feed, newest first. Only the last ones are in the page. */

import { button, element, setText } from "./dom.js";
import { coloured } from "./json_text.js";
import { age, grouped } from "./words.js";

/** Messages in the page. */
const MOST_SHOWN = 40;

/** Characters of a message that are shown; all of them are copied. */
const MOST_CHARACTERS = 1200;

/**
 * What stands in the list: a message, or a note about the connection.
 * @typedef {{ number: number, label: string, text: string, revision?: number, time?: number, head?: () => Node, isNote?: boolean, isGood?: boolean, isBad?: boolean }} Entry
 */

export class Changes {
    #entries = [];
    #nodes = new Map();
    #last = 0;

    /**
     * @param {{ label: string, most?: number, pick?: (entry: Entry) => void, point?: (entry: Entry | undefined) => void }} options `most` are in the page, `point` is
     * called while the pointer or the focus is on a message, `pick` when it is chosen.
     */
    constructor(options) {
        this.options = { most: MOST_SHOWN, ...options };
        this.element = element("ol", { class: "messages", tabindex: "0", "aria-label": options.label });
    }

    /** Forgets everything. */
    clear() {
        this.#entries = [];
    }

    /** Adds an entry; the next `render` shows it. */
    add(entry) {
        this.#last += 1;
        this.#entries.unshift({ ...entry, number: this.#last });
        if (this.#entries.length > this.options.most) this.#entries.pop();
    }

    /** Adds entries from before, oldest first, unless they have arrived meanwhile. */
    addPast(entries) {
        const first = Math.min(...this.#entries.map(({ revision }) => revision ?? Infinity));
        const past = entries.filter(({ revision }) => revision < first).reverse();
        for (const entry of past.slice(0, this.options.most - this.#entries.length)) {
            this.#last += 1;
            this.#entries.push({ ...entry, number: this.#last });
        }
    }

    get entries() {
        return this.#entries;
    }

    /** The messages as JSON, oldest first. */
    json() {
        const messages = this.#entries.filter((entry) => !entry.isNote).reverse();
        return `[\n${messages.map(({ id, text }) => `  {"id":${JSON.stringify(id ?? null)},"data":${text}}`).join(",\n")}\n]`;
    }

    render() {
        const shown = new Set(this.#entries.map((entry) => entry.number));
        for (const [number, node] of this.#nodes) {
            if (shown.has(number)) continue;
            node.remove();
            this.#nodes.delete(number);
        }
        let place = this.element.firstChild;
        for (const entry of this.#entries) {
            const known = this.#nodes.get(entry.number);
            const node = known ?? this.#node(entry);
            if (node === place) place = place.nextSibling;
            else this.element.insertBefore(node, place);
            setText(node.lastChild, entry.head !== undefined ? "" : entry.time === undefined ? "before" : age(entry.time));
        }
    }

    #node(entry) {
        const { pick, point } = this.options;
        const content = entry.isNote ? element("p", {}, entry.text) : element("div", {}, entry.head?.(), element("pre", {}, coloured(entry.text, { limit: MOST_CHARACTERS })));
        const label = pick === undefined || entry.isNote
            ? element("span", { class: "label" }, entry.label)
            : button(entry.label, () => pick(entry), { class: "label link", title: "Show what this message changed" });
        const state = entry.isGood ? " good" : entry.isBad ? " bad" : "";
        const watch = entry.isNote || point === undefined ? {} : {
            onpointerenter: () => point(entry), onpointerleave: () => point(undefined), onfocusin: () => point(entry), onfocusout: () => point(undefined),
        };
        const node = element("li", { class: entry.isNote ? `note${state}` : "message", ...watch }, label, content, element("time"));
        this.#nodes.set(entry.number, node);
        return node;
    }
}

/** How a revision stands beside its message. */
export function revisionLabel(revision) {
    return revision === undefined ? "no id" : grouped(revision);
}
