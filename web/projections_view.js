/** Projections: how far they are, what stopped them, and the buttons that help; and their reports. */

import { button, copyButton, element, section, setText } from "./dom.js";
import { draw } from "./frame.js";
import { request, segment } from "./api.js";
import { reportPaths } from "./schema.js";
import { snippets } from "./snippets.js";
import { links } from "./router.js";
import { count, grouped } from "./words.js";

/** How often a rebuild is looked at, in milliseconds. */
const BUILDING_INTERVAL = 200;

export class ProjectionsView {
    title = "Projections";
    #rows = new Map();
    #text = "[]";
    #isReading = false;
    #last = undefined;

    constructor({ page }) {
        this.page = page;
        this.path = page.index.projections;
        this.body = element("tbody");
        const names = ["name", "state", "applied", "lag", "generation", ""];
        this.table = element("table", {}, element("thead", {}, element("tr", {}, names.map((name) => element("th", { scope: "col" }, name || element("span", { class: "unseen" }, "actions"))))), this.body);
        this.none = element("p", { class: "empty", hidden: true }, "There are no projections. A projection turns events into tables or a file that answer questions across aggregates: register one with .background::<T>().");
        this.problem = element("p", { class: "problem", role: "alert" });
        this.byHand = snippets(() => this.#last ?? { path: this.path });
        const list = section("Projections", { remark: `GET ${this.path}`, actions: [copyButton("Copy JSON", () => this.#text)] },
            element("div", { class: "scroller", role: "region", "aria-label": "Projections, scrollable", tabindex: "0" }, this.table), this.none, this.problem, this.byHand.element);
        this.reports = element("ul", { class: "links" });
        this.element = element("div", {}, list, section("Reports", {}, this.reports));
        this.refresh = () => this.#read();
        this.#readReports();
    }

    close() {
        this.isClosed = true;
    }

    async #read() {
        if (this.#isReading) return;
        this.#isReading = true;
        const answer = await request(this.path);
        this.#isReading = false;
        if (this.isClosed) return;
        setText(this.problem, answer.ok ? "" : answer.problem.detail);
        if (!answer.ok) return;
        this.#text = answer.text;
        const { projections } = JSON.parse(answer.text);
        draw(() => this.#show(projections));
        if (projections.some(({ building }) => building !== undefined)) setTimeout(() => this.#read(), BUILDING_INTERVAL);
    }

    #show(projections) {
        this.none.hidden = projections.length > 0;
        for (const projection of projections) this.#row(projection.name).show(projection);
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
        setText(this.problem, answer.ok ? "" : `${answer.problem.title}: ${answer.problem.detail}`);
        this.#read();
    }

    async #readReports() {
        const names = await reportNames();
        const entries = names.map((name) => element("li", {}, element("a", { href: links.report(name) }, name)));
        this.reports.replaceChildren(...(entries.length > 0 ? entries : [element("li", { class: "empty" }, "There are no reports. A projection offers them with fn reports().")]));
    }
}

/** The names of all reports: from the description of the service, or from what it says about an unknown one. */
export async function reportNames() {
    const described = reportPaths().map((path) => path.replace("/reports/", ""));
    if (described.length > 0) return described;
    const answer = await request("/reports/-");
    return answer.problem?.expected ?? [];
}

/** One projection. */
class Row {
    #at = 0;

    constructor(name, order) {
        this.state = element("span");
        this.progress = element("progress", { "aria-label": `Rebuild of ${name}`, hidden: true });
        this.remaining = element("span", { class: "soft" });
        [this.applied, this.lag, this.generation] = [element("td", { class: "n" }), element("td", { class: "n" }), element("td", { class: "n" })];
        this.rebuild = button("Rebuild", () => order("rebuild"), { "aria-label": `Rebuild ${name}` });
        this.skip = button("Skip the event", () => order("skip", JSON.stringify({ at: this.#at })), { "aria-label": `Skip the event at which ${name} stopped`, hidden: true });
        this.kind = element("small", { class: "soft" });
        this.element = element("tr", {}, element("th", { scope: "row" }, name, " ", this.kind), element("td", {}, this.state, this.progress, this.remaining),
            this.applied, this.lag, this.generation, element("td", { class: "buttons" }, this.rebuild, " ", this.skip));
        this.message = element("td", { colspan: "6", class: "problem" });
        this.trouble = element("tr", { hidden: true }, this.message);
    }

    show({ state, mode, version, current_version: current, at, lag, generation, building, error }) {
        setText(this.kind, `${mode}, version ${current ?? version}`);
        setText(this.state, state);
        this.state.className = { live: "good", failing: "bad" }[state] ?? "way";
        setText(this.applied, grouped(at ?? 0));
        setText(this.lag, lag.events === 0 ? "none" : `${count(lag.events, "event")}, ${lag.seconds.toFixed(1)} s`);
        setText(this.generation, generation === undefined || generation === null ? "–" : grouped(generation));
        this.#showProgress(building);
        this.#at = error?.at ?? 0;
        this.skip.hidden = this.trouble.hidden = error === undefined || error === null;
        if (error) setText(this.message, `It stopped at ${grouped(error.at)} after ${count(error.attempts, "attempt")}: ${error.message}`);
    }

    #showProgress(building) {
        this.progress.hidden = building === undefined;
        this.rebuild.disabled = building !== undefined;
        if (building === undefined) {
            setText(this.remaining, "");
            return;
        }
        this.progress.max = Math.max(1, building.total);
        this.progress.value = building.done;
        const left = building.seconds_left === null ? "" : `, ${Math.ceil(building.seconds_left)} s left`;
        setText(this.remaining, `${grouped(building.done)} of ${grouped(building.total)}${left}`);
    }
}
