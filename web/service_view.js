/** Everything live: the figures of the service. */

import { copyJson, definitions, element, scrollable, section, setText } from "./dom.js";
import { draw } from "./frame.js";
import { request } from "./api.js";
import { Metrics } from "./metrics.js";
import { Plot } from "./plot.js";
import { lagText } from "./projections_view.js";
import { snippets } from "./snippets.js";
import { links } from "./router.js";
import { age, grouped, size } from "./words.js";

/** The figures of each section: a name, the metrics, and how they are written. The second one is a limit. */
const FIGURES = {
    Work: [
        ["journal position", ["journal_position"], grouped],
        ["streams", ["open_streams", "max_streams"], grouped],
        ["slow streams", ["parked_streams"], grouped],
        ["catch-ups", ["catch_ups_total"], grouped],
        ["resets", ["resets_total"], grouped],
        ["relay lag", ["relay_lag_revisions"], grouped],
        ["waiting commands", ["waiting_commands", "max_waiting_commands"], grouped],
        ["rejected commands", ["rejected_commands_total"], grouped],
    ],
    Storage: [
        ["running for", ["start_time_seconds"], (seconds) => age(seconds * 1000)],
        ["database", ["database_bytes"], size],
        ["write-ahead log", ["wal_bytes"], size],
        ["free on the disk", ["disk_free_bytes"], size],
        ["kept revisions", ["outbox_revisions"], grouped],
        ["memory in use", ["process_resident_memory_bytes"], size],
    ],
};

/** The columns with numbers. */
const NUMBERS = ["aggregates", "lag", "used", "limit"];

export class ServiceView {
    title = "Everything live";
    #isReading = false;
    #turn = 0;
    #metrics = new Metrics("");
    #projections = [];

    constructor({ page }) {
        const { index } = page;
        this.page = page;
        this.plot = new Plot({ width: 600, height: 96, label: "Writes a second over the last five minutes" });
        this.most = element("p", { class: "soft" });
        this.figures = Object.entries(FIGURES).map(([title, figures]) => ({ title, figures, list: definitions(figures.map(([name]) => name)) }));
        this.health = element("p", { role: "status" });
        this.problem = element("p", { class: "problem", role: "status" });
        this.collections = new Rows("Collections", ["name", "kind", "aggregates", "feed"]);
        this.lags = new Rows("Projections", ["name", "state", "lag"]);
        this.memory = new Rows("Memory", ["what", "used", "limit"]);
        const remark = `GET ${index.metrics}`;
        this.element = element("div", {},
            section("Writes a second", { remark: `GET ${index.everything.events}`, className: "rate" }, this.plot.element, this.most),
            element("div", { class: "columns" },
                section("Collections", { remark: "GET /", actions: copyJson(() => index) }, this.collections.element),
                this.figures.map(({ title, list }) => section(title, { remark }, list.element))),
            element("div", { class: "columns" },
                section("Projections", { remark: `GET ${index.projections}`, actions: copyJson(() => this.#projections) }, this.lags.element),
                section("Memory", { remark }, this.memory.element),
                section("Health", {}, this.health, this.problem, snippets(() => ({ path: index.metrics })).element)));
    }

    /** What cannot be followed is read every other second. */
    async refresh() {
        draw(this);
        this.#turn += 1;
        if (this.#isReading || this.#turn % 2 === 0) return;
        this.#isReading = true;
        const { metrics, projections } = this.page.index;
        const [numbers, states] = await Promise.all([request(metrics, { accept: "*/*" }), request(projections)]);
        this.#isReading = false;
        setText(this.problem, numbers.problem?.detail ?? "");
        if (numbers.ok) this.#metrics = new Metrics(numbers.text);
        if (states.ok) this.#projections = JSON.parse(states.text).projections;
        draw(this);
    }

    render() {
        const { rate, index } = this.page;
        this.plot.render(rate.counts);
        setText(this.most, `${grouped(Math.round(rate.now))} now, ${grouped(rate.most)} at most, since this page was opened.`);
        this.collections.show(index.collections.map((collection) => [
            { text: collection.name, href: links.collection(collection) }, collection.kind, this.page.countText(collection.name), { text: collection.events, href: links.feed(collection) },
        ]));
        const metrics = this.#metrics;
        if (metrics.all("health").length === 0) return;
        for (const { list, figures } of this.figures) {
            for (const [name, sources, write] of figures) list.set(name, sources.map((source) => write(metrics.value(source))).join(" of "));
        }
        const failing = metrics.all("health").filter(({ value }) => value === 0).map(({ labels }) => labels.part).join(", ");
        setText(this.health, failing === "" ? "Everything works" : `Does not work: ${failing}`);
        this.health.className = failing === "" ? "good" : "bad";
        this.lags.show(this.#projections.map(({ name, state, lag }) => [{ text: name, href: links.projections() }, state, lagText(lag)]));
        const limits = metrics.all("max_memory_bytes");
        this.memory.show(metrics.all("memory_bytes").map(({ labels: { what }, value }) => [what, size(value), size(limits.find(({ labels }) => labels.what === what).value)]));
    }
}

/** A short table whose cells change. */
class Rows {
    constructor(label, names) {
        this.body = element("tbody");
        this.classes = names.map((name) => NUMBERS.includes(name) && "n");
        const head = element("tr", {}, names.map((name, column) => element("th", { scope: "col", class: this.classes[column] }, name)));
        this.element = scrollable(element("table", { "aria-label": label }, element("thead", {}, head), this.body), label);
    }

    show(rows) {
        const { body } = this;
        while (body.children.length > rows.length) body.lastChild.remove();
        rows.forEach((cells, index) => {
            if (body.children[index] === undefined) {
                body.append(element("tr", {}, cells.map(({ href }, column) => element("td", { class: this.classes[column] }, href && element("a", { href })))));
            }
            cells.forEach((cell, column) => {
                const node = body.children[index].children[column];
                setText(node.firstElementChild ?? node, cell.text ?? cell);
            });
        });
    }
}
