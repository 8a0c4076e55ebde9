/** A table of any length: only the rows that can be seen are in the page. */

import { element, scrollable, setText } from "./dom.js";

/** The height of a row in pixels, as in style.css. */
const ROW_HEIGHT = 32;

/** Rows beyond both ends of what is visible, for the Tab key; and rows in the page at most. */
const MARGIN = 4;
const MOST_ROWS = 120;

export class Table {
    #columns = [];
    #rows = new Map();
    #keys = [];
    /** These stand for the rows that are not in the page. */
    #top = spacer();
    #bottom = spacer();
    #wanted = "";

    /** The option `cells` gives all columns but the first, which is the key. */
    constructor(options) {
        const { label, redraw } = options;
        this.options = options;
        this.head = element("tr", { "aria-rowindex": "1" });
        this.body = element("tbody", { onkeydown: (event) => this.#move(event) }, this.#top, this.#bottom);
        this.table = element("table", { "aria-label": label }, element("thead", {}, this.head), this.body);
        this.element = scrollable(this.table, label);
        this.element.addEventListener("scroll", redraw);
        this.resizing = new ResizeObserver(redraw);
        this.resizing.observe(this.element);
    }

    close() {
        this.resizing.disconnect();
    }

    setColumns(columns) {
        if (columns.length === this.#columns.length) return;
        this.#columns = columns;
        this.head.replaceChildren(...columns.map(({ name, isNumber }) => element("th", { scope: "col", class: isNumber && "n" }, name)));
        for (const row of this.#rows.values()) row.remove();
        this.#rows.clear();
        for (const row of [this.#top, this.#bottom]) row.firstChild.colSpan = columns.length;
    }

    render(keys) {
        this.#keys = keys;
        this.table.setAttribute("aria-rowcount", keys.length + 1);
        const first = Math.floor(this.element.scrollTop / ROW_HEIGHT) - MARGIN;
        const visible = Math.min(Math.ceil((this.element.clientHeight || 400) / ROW_HEIGHT) + MARGIN * 2, MOST_ROWS);
        const from = Math.max(0, Math.min(first, keys.length - visible));
        const shown = keys.slice(from, from + visible);
        const remaining = new Set(shown);
        for (const [key, row] of this.#rows) {
            if (remaining.has(key)) continue;
            row.remove();
            this.#rows.delete(key);
        }
        let place = this.#top.nextSibling;
        shown.forEach((key, index) => {
            if (!this.#rows.has(key)) this.#rows.set(key, this.#row(key));
            const row = this.#rows.get(key);
            if (row === place) place = place.nextSibling;
            else this.body.insertBefore(row, place);
            this.#fill(row, key, from + index);
        });
        setHeight(this.#top, from);
        setHeight(this.#bottom, keys.length - from - shown.length);
        this.#rows.get(this.#wanted)?.querySelector("a").focus({ preventScroll: true });
        this.#wanted = "";
    }

    show(index) {
        const { element: { scrollTop, clientHeight }, options } = this;
        const top = index * ROW_HEIGHT;
        const height = clientHeight - ROW_HEIGHT * 2;
        this.element.scrollTop = Math.min(top, Math.max(scrollTop, top - height));
        this.#wanted = this.#keys[index];
        options.redraw();
    }

    #row(key) {
        const link = element("a", { href: this.options.link(key), title: key.length > 20 && key }, key);
        return element("tr", { "data-key": key }, element("th", { scope: "row" }, link), this.#columns.slice(1).map(() => element("td")));
    }

    #fill(row, key, index) {
        row.setAttribute("aria-rowindex", index + 2);
        row.classList.toggle("gone", this.options.isGone(key));
        this.options.cells(key).forEach(({ text, isNumber, isLit, isPointedAt }, column) => {
            const cell = row.children[column + 1];
            setText(cell, text || "–");
            const names = [isNumber && "n", text === "" && "none", isLit && "lit", isPointedAt && "pointed"].filter(Boolean).join(" ");
            if (cell.className !== names) cell.className = names;
        });
    }

    #move(event) {
        const at = this.#keys.indexOf(event.target.closest("tr").dataset.key);
        const page = Math.max(1, Math.floor(this.element.clientHeight / ROW_HEIGHT) - 2);
        const last = this.#keys.length - 1;
        const target = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + page, PageUp: at - page, Home: 0, End: last }[event.key];
        if (target === undefined) return;
        event.preventDefault();
        this.show(Math.min(last, Math.max(0, target)));
    }
}

function spacer() {
    return element("tr", { class: "spacer", "aria-hidden": "true" }, element("td"));
}

function setHeight(row, rows) {
    row.firstChild.style.height = `${rows * ROW_HEIGHT}px`;
    row.hidden = rows === 0;
}
