/** A report as a table. */

import { button, copyJson, element, labelled, scrollable, section, setText } from "./dom.js";
import { request, segment } from "./api.js";
import { queryParameters } from "./schema.js";
import { snippets } from "./snippets.js";
import { links } from "./router.js";
import { count } from "./words.js";

export class ReportView {
    #rows = [];
    #next = undefined;

    constructor({ name = "" }) {
        this.title = name;
        this.above = { href: links.projections, text: "Projections" };
        this.path = `/reports/${segment(name)}`;
        this.inputs = queryParameters(this.path).filter((one) => one !== "after").map((one) => element("input", { name: one, autocomplete: "off" }));
        this.found = element("p", { class: "soft", role: "status" });
        this.problem = element("p", { class: "problem", role: "alert" });
        this.table = element("table", { "aria-label": name });
        this.scroller = scrollable(this.table, name);
        this.more = button("More", () => this.#load(this.#next), { hidden: true });
        this.byHand = snippets(() => ({ path: this.#url() }));
        const actions = [button("Read again", () => this.#load()), copyJson(() => this.#rows)];
        this.element = section("Report", { remark: this.path, actions }, this.#parameters(), this.problem, this.found, this.scroller, element("p", {}, this.more), this.byHand.element);
        this.#load();
    }

    #parameters() {
        const onchange = () => {
            this.byHand.refresh();
            this.#load();
        };
        return element("div", { class: "fields", role: "group", "aria-label": "Parameters", onchange }, this.inputs.map((input) => element("div", { class: "field" }, labelled(input.name, input))));
    }

    #url(after) {
        const query = new URLSearchParams(this.inputs.filter(({ value }) => value !== "").map(({ name, value }) => [name, value]));
        if (after !== undefined) query.set("after", typeof after === "string" ? after : JSON.stringify(after));
        return query.size === 0 ? this.path : `${this.path}?${query}`;
    }

    async #load(after) {
        const { ok, text, headers, problem } = await request(this.#url(after), { accept: "*/*" });
        setText(this.problem, problem?.detail ?? "");
        for (const input of this.inputs) input.setAttribute("aria-invalid", String(problem?.detail.startsWith(`${input.name}:`) ?? false));
        if (!ok) return;
        const isJson = headers.get("Content-Type")?.startsWith("application/json");
        const report = isJson ? JSON.parse(text) : csvRows(text);
        const rows = [report, ...Object.values(report)].find(Array.isArray) ?? [report];
        this.#rows = after === undefined ? rows : [...this.#rows, ...rows];
        this.#next = report.next ?? undefined;
        this.#show();
    }

    #show() {
        const rows = this.#rows;
        const columns = [...new Set(rows.flatMap((row) => (row === Object(row) ? Object.keys(row) : ["value"])))];
        const cell = (row, name) => {
            const value = row === Object(row) ? row[name] : row;
            return element("td", { class: typeof value === "number" && "n" }, value === undefined || value === null ? "–" : typeof value === "string" ? value : JSON.stringify(value));
        };
        const head = columns.map((name) => element("th", { scope: "col", class: typeof rows[0]?.[name] === "number" && "n" }, name));
        this.table.replaceChildren(element("thead", {}, element("tr", {}, head)), element("tbody", {}, rows.map((row) => element("tr", {}, columns.map((name) => cell(row, name))))));
        this.scroller.hidden = rows.length === 0;
        this.more.hidden = this.#next === undefined;
        setText(this.found, rows.length === 0 ? "No rows yet: there were no events that matter here." : count(rows.length, "row"));
    }
}

function csvRows(text) {
    const lines = [[]];
    for (const [, quoted, plain, end] of text.matchAll(/(?:"((?:[^"]|"")*)"|([^",\r\n]*))(,|\r?\n|$)/g)) {
        lines.at(-1).push(quoted?.replaceAll("\"\"", "\"") ?? plain);
        if (end === "") break;
        if (end !== ",") lines.push([]);
    }
    const [names, ...rows] = lines.filter((line) => line.length > 1 || line[0] !== "");
    return rows.map((row) => Object.fromEntries(row.map((value, column) => [names[column], value])));
}
