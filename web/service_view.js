/** Everything live: the figures of the service. */

import { copyButton, element, section, setText } from "./dom.js";
import { draw } from "./frame.js";
import { request } from "./api.js";
import { Metrics } from "./metrics.js";
import { Plot } from "./plot.js";
import { definitions } from "./feed_view.js";
import { snippets } from "./snippets.js";
import { links } from "./router.js";
import { isObject, member } from "./patch.js";
import { age, grouped, size } from "./words.js";

export class ServiceView {
    title = "Everything live";
    #isReading = false;
    #turn = 0;
    #metrics = new Metrics("");
    #projections = [];
    #render = () => this.render();

    constructor({ page }) {
        this.page = page;
        this.plot = new Plot({ width: 600, height: 96, label: "Writes a second over the last five minutes, since this page was opened" });
        this.most = element("p", { class: "soft" });
        this.history = definitions(["revision", "epoch", "journal position", "running for"]);
        this.work = definitions(["streams", "slow streams", "catch-ups and resets", "relay lag", "waiting commands", "refused commands"]);
        this.storage = definitions(["database", "write-ahead log", "free on the disk", "kept revisions", "memory of the process"]);
        this.health = element("p", { role: "status" });
        this.problem = element("p", { class: "problem", role: "status" });
        this.counts = this.#table("Collections", ["name", "kind", "aggregates", "state", "feed"]);
        this.lags = this.#table("Projections", ["name", "state", "lag"]);
        this.memory = this.#table("Memory", ["what", "used", "limit"]);
        this.byHand = snippets(() => ({ path: page.index.metrics ?? "/metrics" }));
        this.element = element("div", {},
            section("Writes a second", { remark: `GET ${page.index.everything.events}`, className: "rate" }, this.plot.element, this.most),
            element("div", { class: "columns" }, section("History", {}, this.health, this.history.element), section("Work", { remark: "GET /metrics" }, this.work.element), section("Storage", {}, this.storage.element)),
            element("div", { class: "columns" },
                section("Collections", { actions: [copyButton("Copy JSON", () => JSON.stringify(page.index, null, 2))] }, this.counts.element),
                section("Projections", { remark: "GET /projections", actions: [copyButton("Copy JSON", () => JSON.stringify(this.#projections, null, 2))] }, this.lags.element),
                section("Memory", {}, this.memory.element)),
            section("The same by hand", {}, this.problem, this.byHand.element));
        this.refresh = () => {
            draw(this.#render);
            // What cannot be followed is read every other second.
            this.#turn += 1;
            if (this.#turn % 2 === 1) this.#read();
        };
    }

    #table(label, names) {
        const body = element("tbody");
        const head = element("tr", {}, names.map((name) => element("th", { scope: "col", class: NUMBERS.has(name) ? "n" : undefined }, name)));
        const table = element("table", { "aria-label": label }, element("thead", {}, head), body);
        return { body, names, element: element("div", { class: "scroller", role: "region", "aria-label": `${label}, scrollable`, tabindex: "0" }, table) };
    }

    async #read() {
        if (this.#isReading) return;
        this.#isReading = true;
        const { metrics = "/metrics", projections } = this.page.index;
        const [numbers, states] = await Promise.all([request(metrics, { accept: "*/*" }), projections === undefined ? undefined : request(projections)]);
        this.#isReading = false;
        setText(this.problem, numbers.ok ? "" : numbers.problem.detail);
        if (numbers.ok) this.#metrics = new Metrics(numbers.text);
        if (states?.ok) this.#projections = JSON.parse(states.text).projections;
        draw(this.#render);
    }

    render() {
        const { page } = this;
        const metrics = this.#metrics;
        this.plot.render(page.rate.counts);
        setText(this.most, `${grouped(Math.round(page.rate.now))} now, ${grouped(page.rate.most)} at most; the line covers five minutes and begins when this page was opened.`);
        const start = metrics.value("start_time_seconds") * 1000;
        fill(this.history, {
            revision: grouped(page.copy.revision), epoch: page.copy.epoch, "journal position": grouped(metrics.value("journal_position")), "running for": start === 0 ? "…" : age(start),
        });
        fill(this.work, {
            streams: `${grouped(metrics.value("open_streams"))} of ${grouped(metrics.value("max_streams"))}`, "slow streams": grouped(metrics.value("parked_streams")),
            "catch-ups and resets": `${grouped(metrics.value("catch_ups_total"))} and ${grouped(metrics.value("resets_total"))}`,
            "relay lag": `${grouped(metrics.value("relay_lag_revisions"))} revisions, ${metrics.value("relay_lag_seconds").toFixed(1)} s`,
            "waiting commands": `${grouped(metrics.value("waiting_commands"))} of ${grouped(metrics.value("max_waiting_commands"))}`, "refused commands": grouped(metrics.value("rejected_commands_total")),
        });
        fill(this.storage, {
            database: size(metrics.value("database_bytes")), "write-ahead log": size(metrics.value("wal_bytes")), "free on the disk": size(metrics.value("disk_free_bytes")),
            "kept revisions": grouped(metrics.value("outbox_revisions")), "memory of the process": size(metrics.value("process_resident_memory_bytes")),
        });
        this.#renderHealth();
        this.#renderTables();
    }

    #renderHealth() {
        const failing = this.#metrics.all("health").filter(({ value }) => value === 0).map(({ labels }) => labels.part);
        if (this.#metrics.all("health").length === 0) return;
        setText(this.health, failing.length === 0 ? "Everything works" : `Does not work: ${failing.join(", ")}`);
        this.health.className = failing.length === 0 ? "good" : "bad";
    }

    #renderTables() {
        const { index, copy, loaded } = this.page;
        const counts = index.collections.map((collection) => {
            const state = member(copy.document, collection.name);
            const number = loaded.has(collection.name) ? grouped(isObject(state) ? Object.keys(state).length : 0) : "not loaded";
            return [{ text: collection.name, href: links.collection(collection) }, collection.kind, number, collection.state, { text: collection.events, href: links.feed(collection) }];
        });
        setRows(this.counts, counts);
        setRows(this.lags, this.#projections.map(({ name, state, lag }) => [{ text: name, href: links.projections() }, state, lag.events === 0 ? "none" : `${grouped(lag.events)} events, ${lag.seconds.toFixed(1)} s`]));
        const limits = new Map(this.#metrics.all("max_memory_bytes").map(({ labels, value }) => [labels.what, value]));
        setRows(this.memory, this.#metrics.all("memory_bytes").map(({ labels, value }) => [labels.what, size(value), size(limits.get(labels.what) ?? 0)]));
    }
}

/** The columns with numbers. */
const NUMBERS = new Set(["aggregates", "lag", "used", "limit"]);

function fill(list, values) {
    for (const [name, text] of Object.entries(values)) list.set(name, text);
}

/** Sets the cells of a table; rows are made only when there are more or fewer. */
function setRows({ body, names }, rows) {
    while (body.children.length > rows.length) body.lastChild.remove();
    rows.forEach((cells, index) => {
        const isNew = body.children[index] === undefined;
        if (isNew) body.append(element("tr", {}, cells.map((cell, column) => element("td", { class: NUMBERS.has(names[column]) ? "n" : undefined }, cell.href === undefined ? "" : element("a", { href: cell.href })))));
        cells.forEach((cell, column) => {
            const node = body.children[index].children[column];
            setText(cell.href === undefined ? node : node.firstChild, cell.text ?? cell);
        });
    });
}
