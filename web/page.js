/** The page: it loads the index and the state, and shows the view that the address names. */

import { announce, element } from "./dom.js";
import { draw } from "./frame.js";
import { request } from "./api.js";
import { Copy } from "./copy.js";
import { Navigation } from "./navigation.js";
import { Header } from "./header.js";
import { WriteRate } from "./plot.js";
import { loadSchemas } from "./schema.js";
import { route } from "./router.js";
import { member } from "./patch.js";
import { grouped } from "./words.js";
import { DualityView } from "./duality_view.js";
import { AggregateView } from "./aggregate_view.js";
import { FeedView } from "./feed_view.js";
import { JournalView } from "./journal_view.js";
import { ProjectionsView } from "./projections_view.js";
import { ReportView } from "./report_view.js";
import { ServiceView } from "./service_view.js";

/** Collections whose bodies are longer than this together, in bytes, are loaded when somebody looks at them. */
const MOST_BYTES = 32 * 1024 * 1024;

const VIEWS = { duality: DualityView, aggregate: AggregateView, feed: FeedView, journal: JournalView, projections: ProjectionsView, reports: ReportView, service: ServiceView };

class Page {
    rate = new WriteRate();
    #view = undefined;
    #content = document.getElementById("content");

    async start() {
        this.index = await this.#loadIndex();
        await Promise.all([loadSchemas(this.index.openapi), this.#chooseCollections()]);
        this.navigation = new Navigation(this, document.getElementById("navigation"));
        this.header = new Header(this, document.getElementById("header"));
        this.#follow();
        addEventListener("hashchange", () => this.#show());
        setInterval(() => this.#everySecond(), 1000);
        this.#show();
    }

    async #loadIndex() {
        for (;;) {
            const answer = await request("/");
            if (answer.ok) return JSON.parse(answer.text);
            this.#content.replaceChildren(element("p", { class: "empty" }, `${answer.problem.detail}. Trying again …`));
            await new Promise((resolve) => setTimeout(resolve, 1000));
        }
    }

    /** Finds out how long the collections are, and loads the shortest ones at once; at least one. */
    async #chooseCollections() {
        const lengths = await Promise.all(this.index.collections.map(async ({ name, state }) => {
            const { headers } = await request(state, { method: "HEAD" });
            // A body that the service streams has no length.
            return [name, Number(headers.get("Content-Length") ?? Infinity)];
        }));
        this.loaded = new Set();
        let sum = 0;
        for (const [name, length] of lengths.sort((one, other) => one[1] - other[1])) {
            sum += length;
            if (sum <= MOST_BYTES || this.loaded.size === 0) this.loaded.add(name);
        }
    }

    /** Keeps one copy for all views: a browser has few connections to one host. */
    #follow() {
        const { collections, everything: { state, events } } = this.index;
        const isAll = this.loaded.size === collections.length;
        const query = isAll ? "" : `?${new URLSearchParams([...this.loaded].map((name) => ["collection", name]))}`;
        this.copy?.close();
        this.copy = new Copy({ state: state + query, events: events + query });
        this.copy.listen({ after: () => draw(this), changed: () => draw(this) });
    }

    countText(name) {
        if (!this.loaded.has(name)) return "long";
        return this.copy.document === undefined ? "…" : grouped(Object.keys(member(this.copy.document, name) ?? {}).length);
    }

    render() {
        this.header.render();
        this.navigation.render();
    }

    #everySecond() {
        if (this.copy.document !== undefined) this.rate.sample(this.copy.revision);
        draw(this);
        this.#refresh();
    }

    /** Views that read something do it here; the others show how time passes. */
    #refresh() {
        if (this.#view.refresh !== undefined) this.#view.refresh();
        else if (this.#view.render !== undefined) draw(this.#view);
    }

    #show() {
        const isFirst = this.#view === undefined;
        this.#view?.close?.();
        const wanted = this.#resolve(route(location.hash));
        const view = this.#open(wanted);
        this.#view = view;
        document.title = `duality · ${view.title}`;
        this.navigation.setCurrent(wanted);
        this.header.setTitle(view);
        this.#content.replaceChildren(view.element);
        if (!isFirst) announce(view.title);
        scrollTo(0, 0);
        this.#refresh();
        draw(this);
    }

    #resolve(wanted) {
        const { collections, everything } = this.index;
        const { view, name } = wanted;
        if (view === "first") return collections.length === 0 ? { view: "service" } : { view: "duality", collection: collections[0] };
        if (!["duality", "aggregate", "feed"].includes(view) || name === undefined || `/${name}` === everything.events) return wanted;
        const collection = collections.find((one) => one.name === name || (view === "feed" && one.events === `/${name}`));
        return { ...wanted, view: collection === undefined ? "unknown" : view, collection };
    }

    #open(wanted) {
        const { view, name, collection } = wanted;
        if (view === "unknown") return { title: "Nothing here", element: element("h2", { class: "empty" }, `There is no collection “${name}”.`) };
        if (view === "duality" && !this.loaded.has(collection.name)) {
            this.loaded.add(collection.name);
            this.#follow();
        }
        return new VIEWS[view]({ page: this, ...wanted });
    }
}

new Page().start();
