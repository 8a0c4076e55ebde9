/** A table of any length: only the rows that can be seen are in the page. */

import { element, setText } from "./dom.js";

/** The height of a row in pixels, as in style.css. */
const ROW_HEIGHT = 32;

/** Rows beyond both ends of the visible part, so that the Tab key finds the next one. */
const MARGIN = 4;

/** A table never has more rows than this in the page, however high the window is. */
const MOST_ROWS = 120;

/**
 * What a cell shows.
 * @typedef {{ text: string, isNumber?: boolean, isLit?: boolean, isPointedAt?: boolean }} Cell
 */

export class Table {
    #columns = [];
    #rows = new Map();
    #keys = [];
    #top = spacer();
    #bottom = spacer();
    #isFocusWanted = "";

    /**
     * @param {{ label: string, link: (key: string) => string, cells: (key: string) => Cell[], isGone: (key: string) => boolean, redraw: () => void }} options
     * `cells` gives one cell for each column but the first, which is the key.
     */
    constructor(options) {
        this.options = options;
        this.head = element("tr", { "aria-rowindex": "1" });
        this.body = element("tbody", { onkeydown: (event) => this.#move(event) });
        this.table = element("table", { "aria-label": options.label }, element("thead", {}, this.head), this.body);
        this.element = element("div", { class: "scroller", onscroll: options.redraw, role: "region", "aria-label": `${options.label}, scrollable`, tabindex: "-1" }, this.table);
        this.body.append(this.#top, this.#bottom);
        this.resizing = new ResizeObserver(options.redraw);
        this.resizing.observe(this.element);
    }

    close() {
        this.resizing.disconnect();
    }

    /** @param {{ name: string, isNumber?: boolean }[]} columns all of them, the key first */
    setColumns(columns) {
        if (JSON.stringify(columns) === JSON.stringify(this.#columns)) return;
        this.#columns = columns;
        this.head.replaceChildren(...columns.map(({ name, isNumber }) => element("th", { scope: "col", class: isNumber ? "n" : undefined }, name)));
        for (const row of this.#rows.values()) row.remove();
        this.#rows.clear();
        for (const row of [this.#top, this.#bottom]) row.firstChild.colSpan = columns.length;
    }

    /** Draws the visible part of these keys. */
    render(keys) {
        this.#keys = keys;
        this.table.setAttribute("aria-rowcount", String(keys.length + 1));
        const [from, to] = this.#visible();
        const shown = keys.slice(from, to);
        const remaining = new Set(shown);
        for (const [key, row] of this.#rows) {
            if (remaining.has(key)) continue;
            row.remove();
            this.#rows.delete(key);
        }
        let place = this.#top.nextSibling;
        shown.forEach((key, index) => {
            const row = this.#row(key);
            if (row === place) place = place.nextSibling;
            else this.body.insertBefore(row, place);
            this.#fill(row, key, from + index);
        });
        setHeight(this.#top, from);
        setHeight(this.#bottom, keys.length - to);
        if (this.#isFocusWanted !== "") this.#focus();
    }

    /** Scrolls to a key, and moves the focus there if wanted. */
    show(index, { focus = false } = {}) {
        if (index < 0) return;
        const top = index * ROW_HEIGHT;
        const height = this.element.clientHeight - ROW_HEIGHT * 2;
        if (top < this.element.scrollTop) this.element.scrollTop = top;
        else if (top > this.element.scrollTop + height) this.element.scrollTop = top - height;
        if (focus) this.#isFocusWanted = this.#keys[index];
        this.options.redraw();
    }

    #focus() {
        this.#rows.get(this.#isFocusWanted)?.querySelector("a")?.focus({ preventScroll: true });
        this.#isFocusWanted = "";
    }

    #visible() {
        const first = Math.floor(this.element.scrollTop / ROW_HEIGHT) - MARGIN;
        const visible = Math.ceil((this.element.clientHeight || 400) / ROW_HEIGHT) + MARGIN * 2;
        const from = Math.max(0, Math.min(first, this.#keys.length - visible));
        return [from, Math.min(this.#keys.length, from + Math.min(visible, MOST_ROWS))];
    }

    #row(key) {
        const known = this.#rows.get(key);
        if (known !== undefined) return known;
        const cells = this.#columns.slice(1).map(() => element("td"));
        const name = element("th", { scope: "row" }, element("a", { href: this.options.link(key), title: key.length > 20 ? key : undefined }, key));
        const row = element("tr", { "data-key": key }, name, cells);
        this.#rows.set(key, row);
        return row;
    }

    #fill(row, key, index) {
        row.setAttribute("aria-rowindex", String(index + 2));
        row.classList.toggle("gone", this.options.isGone(key));
        const cells = this.options.cells(key);
        cells.forEach(({ text, isNumber = false, isLit = false, isPointedAt = false }, column) => {
            const cell = row.children[column + 1];
            setText(cell, text === "" ? "–" : text);
            const names = [isNumber && "n", text === "" && "none", isLit && "lit", isPointedAt && "pointed"].filter(Boolean).join(" ");
            if (cell.className !== names) cell.className = names;
        });
    }

    #move(event) {
        const key = event.target.closest("tr")?.dataset.key;
        const page = Math.max(1, Math.floor(this.element.clientHeight / ROW_HEIGHT) - 2);
        const last = this.#keys.length - 1;
        const at = this.#keys.indexOf(key);
        const target = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + page, PageUp: at - page, Home: 0, End: last }[event.key];
        if (target === undefined || at < 0) return;
        event.preventDefault();
        this.show(Math.min(last, Math.max(0, target)), { focus: true });
    }
}

/** Stands for the rows that are not in the page. */
function spacer() {
    return element("tr", { class: "spacer", "aria-hidden": "true" }, element("td"));
}

function setHeight(row, rows) {
    const height = `${rows * ROW_HEIGHT}px`;
    if (row.firstChild.style.height !== height) row.firstChild.style.height = height;
    row.hidden = rows === 0;
}
