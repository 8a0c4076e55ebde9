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
import { whenRefused } from "./token.js";
import { grouped } from "./words.js";
import { DualityView } from "./duality_view.js";
import { AggregateView } from "./aggregate_view.js";
import { FeedView } from "./feed_view.js";
import { JournalView } from "./journal_view.js";
import { ProjectionsView } from "./projections_view.js";
import { ReportView } from "./report_view.js";
import { ServiceView } from "./service_view.js";

/** The bytes that are loaded at once; other collections are, when somebody looks at them. */
const MOST_BYTES = 32 * 1024 * 1024;

const VIEWS = { duality: DualityView, aggregate: AggregateView, feed: FeedView, journal: JournalView, projections: ProjectionsView, reports: ReportView, service: ServiceView };

class Page {
    rate = new WriteRate();
    #view = undefined;
    /** The form for a token, while the service wants one. */
    #form = undefined;
    #content = document.getElementById("content");

    async start() {
        whenRefused((form) => this.#askForToken(form));
        this.index = await this.#loadIndex();
        if (this.#form) return;
        this.navigation = new Navigation(this, document.getElementById("navigation"));
        this.header = new Header(this, document.getElementById("header"));
        await Promise.all([loadSchemas(this.index.openapi), this.#chooseCollections()]);
        if (this.#form) return;
        this.#follow();
        addEventListener("hashchange", () => this.#show());
        setInterval(() => this.#everySecond(), 1000);
        this.#show();
    }

    async #loadIndex() {
        for (;;) {
            const answer = await request("/");
            if (answer.ok) return JSON.parse(answer.text);
            if (this.#form) return undefined;
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

    /** Shows nothing else until there is another token. */
    #askForToken(form) {
        if (this.#form) return;
        this.#view?.close?.();
        this.copy?.close();
        this.#form = form;
        this.#present({ title: "Token", element: form });
        form.querySelector("input").focus();
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
        if (this.#form) return;
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
        if (this.#form) return;
        const isFirst = this.#view === undefined;
        this.#view?.close?.();
        const wanted = this.#resolve(route(location.hash));
        const view = this.#open(wanted);
        this.#view = view;
        this.navigation.setCurrent(wanted);
        this.#present(view);
        if (!isFirst) announce(view.title);
        scrollTo(0, 0);
        this.#refresh();
        draw(this);
    }

    #present(view) {
        document.title = `duality · ${view.title}`;
        this.header?.setTitle(view);
        this.#content.replaceChildren(view.element);
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
        if (view === "unknown") return { title: "Nothing here", element: element("h2", { class: "empty" }, this.index.token?.hidden.includes(name) ? `The token may not read ${name}.` : `There is no collection “${name}”.`) };
        if (view === "duality" && !this.loaded.has(collection.name)) {
            this.loaded.add(collection.name);
            this.#follow();
        }
        return new VIEWS[view]({ page: this, ...wanted });
    }
}

new Page().start();
