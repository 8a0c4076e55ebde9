/** A report as a table. */

import { button, copyButton, element, section, setText, uniqueId } from "./dom.js";
import { request, segment } from "./api.js";
import { queryParameters } from "./schema.js";
import { isObject, member } from "./patch.js";
import { snippets } from "./snippets.js";
import { links } from "./router.js";
import { count } from "./words.js";

export class ReportView {
    #texts = [];
    #next = undefined;
    #rows = [];

    constructor({ name = "" }) {
        this.title = name;
        this.above = { href: links.projections(), text: "Projections" };
        this.path = `/reports/${segment(name)}`;
        this.isText = name.includes(".");
        const parameters = this.#parameters();
        this.found = element("p", { class: "found", role: "status" });
        this.problem = element("p", { class: "problem", role: "alert" });
        this.table = element("table", { "aria-label": name });
        this.scroller = element("div", { class: "scroller", role: "region", "aria-label": `${name}, scrollable`, tabindex: "0" }, this.table);
        this.more = button("More", () => this.#load(this.#next), { hidden: true });
        this.byHand = snippets(() => ({ path: this.#url(), accept: this.isText ? "text/csv" : undefined }));
        const actions = [button("Read again", () => this.#load()), copyButton("Copy JSON", () => JSON.stringify(this.#rows, null, 2))];
        if (this.isText) actions.push(copyButton("Copy as it is", () => this.#texts.join("")));
        this.element = section("Report", { remark: `GET ${this.path}`, actions }, parameters, this.problem, this.found, this.scroller, element("p", { class: "row" }, this.more), this.byHand.element);
        this.#load();
    }

    #parameters() {
        this.inputs = queryParameters(this.path).filter(({ name }) => name !== "after").map(({ name }) => element("input", { name, id: uniqueId(), autocomplete: "off" }));
        if (this.inputs.length === 0) return null;
        const fields = this.inputs.map((input) => element("div", { class: "field" }, element("label", { for: input.id }, input.name), input));
        return element("form", { "aria-label": "Parameters", oninput: () => this.byHand.refresh(), onsubmit: (event) => {
            event.preventDefault();
            this.#load();
        } }, element("div", { class: "fields" }, fields, element("div", { class: "field end" }, element("button", { type: "submit" }, "Read"))));
    }

    #url(after) {
        const query = new URLSearchParams(this.inputs.filter(({ value }) => value !== "").map(({ name, value }) => [name, value]));
        if (after !== undefined) query.set("after", typeof after === "string" ? after : JSON.stringify(after));
        const text = query.toString();
        return text === "" ? this.path : `${this.path}?${text}`;
    }

    async #load(after) {
        const answer = await request(this.#url(after), { accept: "*/*" });
        const { problem } = answer;
        setText(this.problem, answer.ok ? "" : problem.detail);
        const wrong = this.inputs.find(({ name }) => problem?.detail?.startsWith(`${name}:`));
        for (const input of this.inputs) input.toggleAttribute("aria-invalid", false);
        wrong?.setAttribute("aria-invalid", "true");
        wrong?.focus();
        if (!answer.ok) return;
        if (after === undefined) [this.#rows, this.#texts] = [[], []];
        this.#texts.push(answer.text);
        const isJson = answer.headers.get("Content-Type")?.startsWith("application/json");
        const { rows, next } = isJson ? rowsOf(JSON.parse(answer.text)) : { rows: csvRows(answer.text), next: undefined };
        this.#rows.push(...rows);
        this.#next = next ?? undefined;
        this.#show();
    }

    #show() {
        const rows = this.#rows;
        const columns = [...new Set(rows.flatMap((row) => Object.keys(isObject(row) ? row : Array.isArray(row) ? row : { value: row })))];
        const cell = (row, name) => {
            const value = isObject(row) ? member(row, name) : Array.isArray(row) ? row[Number(name)] : row;
            const text = value === undefined || value === null ? "–" : typeof value === "string" ? value : JSON.stringify(value);
            return element("td", { class: typeof value === "number" ? "n" : text === "–" ? "none" : undefined }, text);
        };
        const head = element("tr", {}, columns.map((name) => element("th", { scope: "col", class: typeof member(rows[0], name) === "number" ? "n" : undefined }, name)));
        this.table.replaceChildren(element("thead", {}, head), element("tbody", {}, rows.map((row) => element("tr", {}, columns.map((name) => cell(row, name))))));
        this.scroller.hidden = rows.length === 0;
        this.more.hidden = this.#next === undefined;
        setText(this.found, rows.length === 0 ? "The report has no rows yet: it follows the events, and there were none that matter here." : count(rows.length, "row"));
    }
}

/** The rows of a report: its list, whatever its name is. */
function rowsOf(report) {
    if (Array.isArray(report)) return { rows: report };
    const list = Object.values(report).find(Array.isArray);
    return { rows: list ?? [report], next: report.next };
}

/** The lines of a CSV text (RFC 4180) as objects with the names of the first line. */
function csvRows(text) {
    const lines = [[]];
    for (const [, quoted, plain, end] of text.matchAll(/(?:"((?:[^"]|"")*)"|([^",\r\n]*))(,|\r?\n|$)/g)) {
        lines.at(-1).push(quoted === undefined ? plain : quoted.replaceAll("\"\"", "\""));
        if (end === "") break;
        if (end !== ",") lines.push([]);
    }
    if (lines.at(-1).length === 1 && lines.at(-1)[0] === "") lines.pop();
    const [names = [], ...rows] = lines;
    return rows.map((row) => Object.fromEntries(names.map((name, column) => [name, row[column] ?? ""])));
}
