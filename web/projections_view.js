/** Projections: how far they are, what stopped them, and what helps. */

import { button, copyButton, element, scrollable, section, setText } from "./dom.js";
import { request, segment } from "./api.js";
import { reportNames } from "./schema.js";
import { snippets } from "./snippets.js";
import { links } from "./router.js";
import { count, grouped } from "./words.js";

const BUILDING_INTERVAL = 200;

/** The columns, and those that are aligned to the right. */
const COLUMNS = ["name", "state", "applied", "lag", "generation", "actions"];
const FIRST_NUMBER = 2;

export class ProjectionsView {
    #rows = new Map();
    #text = "null";
    #isReading = false;
    #last = undefined;

    constructor({ page }) {
        this.path = page.index.projections;
        this.isClosed = !this.path;
        this.title = this.path ? "Projections" : "Reports";
        this.body = element("tbody");
        const head = element("tr", {}, COLUMNS.map((name, column) => element("th", { scope: "col", class: column >= FIRST_NUMBER && "n" }, name)));
        this.none = element("p", { class: "empty", hidden: true }, "There are no projections. One turns events into tables or a file: register it with .background::<T>().");
        this.problem = element("p", { class: "problem", role: "alert" });
        this.byHand = snippets(() => this.#last ?? { path: this.path });
        const reports = reportNames().map((name) => element("li", {}, element("a", { href: links.report(name) }, name)));
        this.element = element("div", {},
            this.path && section("Projections", { remark: this.path, actions: copyButton("Copy JSON", () => this.#text) },
                scrollable(element("table", {}, element("thead", {}, head), this.body), "Projections"), this.none, this.problem, this.byHand.element),
            section("Reports", {}, reports.length === 0 ? "There are none. A projection offers them with fn reports()." : element("ul", { class: "links" }, reports)));
    }

    close() {
        this.isClosed = true;
    }

    async refresh() {
        if (this.#isReading || this.isClosed) return;
        this.#isReading = true;
        const answer = await request(this.path);
        this.#isReading = false;
        setText(this.problem, answer.problem?.detail ?? "");
        this.isClosed ||= answer.status === 403;
        if (!answer.ok) return;
        this.#text = answer.text;
        const { projections } = JSON.parse(answer.text);
        this.none.hidden = projections.length > 0;
        for (const projection of projections) this.#row(projection.name).show(projection);
        if (projections.some(({ building }) => building !== undefined)) setTimeout(() => this.refresh(), BUILDING_INTERVAL);
    }

    #row(name) {
        if (!this.#rows.has(name)) {
            const row = new Row(name, (action, body) => this.#order(`${this.path}/${segment(name)}/${action}`, body));
            this.#rows.set(name, row);
            this.body.append(row.element, row.trouble);
        }
        return this.#rows.get(name);
    }

    async #order(path, body) {
        this.#last = { path, method: "POST", body };
        this.byHand.refresh();
        const answer = await request(path, { method: "POST", body });
        await this.refresh();
        if (!answer.ok) setText(this.problem, `${answer.problem.title}: ${answer.problem.detail}`);
    }

}

export function lagText({ events, seconds }) {
    return events === 0 ? "none" : `${count(events, "event")}, ${seconds.toFixed(1)} s`;
}

class Row {
    #at = 0;

    constructor(name, order) {
        this.state = element("span");
        this.progress = element("progress", { "aria-label": `Rebuild of ${name}` });
        this.remaining = element("span", { class: "soft" });
        this.kind = element("small", { class: "soft" });
        this.rebuild = button("Rebuild", () => order("rebuild"), { "aria-label": `Rebuild ${name}` });
        this.skip = button("Skip the event", () => order("skip", JSON.stringify({ at: this.#at })), { "aria-label": `Skip the event at which ${name} stopped` });
        [this.applied, this.lag, this.generation, this.actions] = COLUMNS.slice(FIRST_NUMBER).map(() => element("td", { class: "n" }));
        this.actions.append(this.skip, " ", this.rebuild);
        this.element = element("tr", {}, element("th", { scope: "row" }, name, " ", this.kind), element("td", {}, this.state, this.progress, this.remaining),
            this.applied, this.lag, this.generation, this.actions);
        this.message = element("td", { colspan: COLUMNS.length, class: "problem" });
        this.trouble = element("tr", {}, this.message);
    }

    show({ state, mode, version, at = 0, lag, generation = "–", building, error }) {
        setText(this.kind, `${mode}, version ${version}`);
        setText(this.state, state);
        this.state.className = { live: "good", failing: "bad" }[state] ?? "";
        setText(this.applied, grouped(at));
        setText(this.lag, lagText(lag));
        setText(this.generation, String(generation));
        this.skip.hidden = this.trouble.hidden = !error;
        this.progress.hidden = this.remaining.hidden = !building;
        this.rebuild.disabled = Boolean(building);
        this.#at = error?.at;
        if (error) setText(this.message, `It stopped at ${grouped(error.at)} after ${count(error.attempts, "attempt")}: ${error.message}`);
        if (!building) return;
        const { done, total, seconds_left: left } = building;
        Object.assign(this.progress, { max: Math.max(1, total), value: done });
        setText(this.remaining, `${grouped(done)} of ${grouped(total)}${left === null ? "" : `, ${Math.ceil(left)} s left`}`);
    }
}
