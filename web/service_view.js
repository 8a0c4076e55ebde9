/** Everything live: the figures of the service. */

import { copyButton, copyJson, Definitions, element, section, setText } from "./dom.js";
import { draw } from "./frame.js";
import { request } from "./api.js";
import { Metrics } from "./metrics.js";
import { Plot } from "./plot.js";
import { lagText } from "./projections_view.js";
import { snippets } from "./snippets.js";
import { age, grouped, size } from "./words.js";

/** Each figure: its name, how it is written, its metric, and that of its limit. */
const FIGURES = {
    Work: [
        ["journal position", grouped, "journal_position"],
        ["streams", grouped, "open_streams", "max_streams"],
        ["catch-ups", grouped, "catch_ups_total"],
        ["resets", grouped, "resets_total"],
        ["relay lag", grouped, "relay_lag_revisions"],
        ["waiting commands", grouped, "waiting_commands", "max_waiting_commands"],
        ["rejected commands", grouped, "rejected_commands_total"],
    ],
    Storage: [
        ["running for", (seconds) => age(seconds * 1000), "start_time_seconds"],
        ["database", size, "database_bytes"],
        ["write-ahead log", size, "wal_bytes"],
        ["free on the disk", size, "disk_free_bytes"],
        ["kept revisions", grouped, "outbox_revisions"],
        ["memory in use", size, "process_resident_memory_bytes"],
    ],
};

export class ServiceView {
    title = "Everything live";
    #isReading = false;
    #turn = 0;
    #metrics = undefined;
    #text = "";
    #projections = [];
    #lists = Object.fromEntries(["Collections", "Work", "Storage", "Projections", "Memory"].map((title) => [title, new Definitions()]));

    constructor({ page }) {
        const { index } = page;
        this.page = page;
        this.plot = new Plot({ width: 600, height: 96, label: "Writes a second over the last five minutes" });
        this.most = element("p", { class: "soft" });
        this.health = element("p", { role: "status" });
        this.problem = element("p", { class: "problem", role: "status" });
        const list = (title, remark, read) => section(title, { remark, actions: read && copyJson(read) }, this.#lists[title].element);
        const health = section("Health", { remark: index.health, actions: copyButton("Copy", () => this.#text) }, this.health, this.problem, snippets(() => ({ path: index.metrics })).element);
        this.element = element("div", {},
            section("Writes a second", { remark: index.everything.events }, this.plot.element, this.most),
            element("div", { class: "columns" }, list("Collections", "/", () => index), index.metrics && [list("Work", index.metrics), list("Storage", index.metrics)]),
            index.metrics && element("div", { class: "columns" }, list("Projections", index.projections, () => this.#projections), list("Memory", index.metrics), health));
    }

    async refresh() {
        draw(this);
        this.#turn += 1;
        const { metrics, projections } = this.page.index;
        // Operators may have an address of their own.
        if (this.#isReading || this.#turn % 2 === 0 || !metrics) return;
        this.#isReading = true;
        const [numbers, states] = await Promise.all([request(metrics, { accept: "*/*" }), request(projections)]);
        this.#isReading = numbers.status === 403;
        setText(this.problem, numbers.problem?.detail ?? "");
        this.#text = numbers.text;
        if (numbers.ok) this.#metrics = new Metrics(numbers.text);
        if (states.ok) this.#projections = JSON.parse(states.text).projections;
        draw(this);
    }

    render() {
        const { rate, index } = this.page;
        const { Collections, Projections, Memory } = this.#lists;
        const metrics = this.#metrics;
        this.plot.render(rate.counts);
        setText(this.most, `${grouped(Math.round(rate.now))} now, ${grouped(rate.most)} at most, since this page was opened.`);
        for (const { name, kind } of index.collections) Collections.set(name, `${this.page.countText(name)}, ${kind}`);
        for (const { name, state, lag } of this.#projections) Projections.set(name, `${state}, lag ${lagText(lag)}`);
        if (metrics === undefined) return;
        for (const [title, figures] of Object.entries(FIGURES)) {
            for (const [name, write, ...sources] of figures) this.#lists[title].set(name, sources.map((source) => write(metrics.value(source))).join(" of "));
        }
        for (const { labels, value } of metrics.all("memory_bytes")) Memory.set(labels.what, size(value));
        const failing = metrics.all("health").filter(({ value }) => value === 0).map(({ labels }) => labels.part).join(", ");
        setText(this.health, failing === "" ? "Everything works" : `Does not work: ${failing}`);
        this.health.className = failing === "" ? "good" : "bad";
    }
}
