/** The page: it loads the index and the state, and shows the view that the address names. */

import { announce, button, element, setText } from "./dom.js";
import { draw } from "./frame.js";
import { read } from "./api.js";
import { Copy } from "./copy.js";
import { Navigation } from "./navigation.js";
import { Header } from "./header.js";
import { WriteRate } from "./plot.js";
import { loadSchemas } from "./schema.js";
import { links, route } from "./router.js";
import { size } from "./words.js";
import { DualityView } from "./duality_view.js";
import { AggregateView } from "./aggregate_view.js";
import { FeedView } from "./feed_view.js";
import { JournalView } from "./journal_view.js";
import { ProjectionsView } from "./projections_view.js";
import { ReportView } from "./report_view.js";
import { ServiceView } from "./service_view.js";

/** Collections whose bodies are longer than this together, in bytes, are loaded only when somebody wants them. */
const MOST_BYTES = 32 * 1024 * 1024;

const VIEWS = {
    duality: DualityView, aggregate: AggregateView, feed: FeedView, journal: JournalView, projections: ProjectionsView, reports: ReportView, service: ServiceView,
};

class Page {
    rate = new WriteRate();
    #view = undefined;
    #content = document.getElementById("content");

    async start() {
        this.index = await this.#loadIndex();
        await loadSchemas(this.index.openapi);
        const sizes = await sizesOf(this.index.collections);
        this.sizes = sizes;
        this.loaded = affordable(this.index.collections, sizes);
        this.navigation = new Navigation(this, document.getElementById("navigation"));
        this.header = new Header(this, document.getElementById("header"));
        this.#follow();
        addEventListener("hashchange", () => this.show());
        setInterval(() => this.#everySecond(), 1000);
        this.show();
    }

    async #loadIndex() {
        for (;;) {
            try {
                return await read("/");
            } catch (error) {
                this.#content.replaceChildren(element("p", { class: "empty" }, `The service does not answer: ${error.message}. Trying again …`));
                await new Promise((resolve) => setTimeout(resolve, 1000));
            }
        }
    }

    /** Keeps one copy for all views: a browser has few connections to one host. */
    #follow() {
        this.copy?.close();
        this.copy = new Copy(this.#paths());
        this.copy.listen({ after: () => this.#redraw(), changed: () => this.#redraw() });
    }

    #paths() {
        const { collections, everything } = this.index;
        if (this.loaded.size === collections.length) return everything;
        const query = [...this.loaded].map((name) => `collection=${encodeURIComponent(name)}`).join("&");
        return { state: `${everything.state}?${query}`, events: `${everything.events}?${query}` };
    }

    /** Loads a collection that is long, because somebody wants to see it. */
    load(name) {
        this.loaded.add(name);
        this.#follow();
        this.show();
    }

    #redraw() {
        draw(this.#renderFrame);
    }

    #renderFrame = () => {
        this.header.render();
        this.navigation.render();
    };

    #everySecond() {
        if (this.copy.document !== undefined) this.rate.sample(this.copy.revision);
        this.#redraw();
        this.#view?.refresh?.();
    }

    /** Shows the view that the address names. */
    show() {
        this.#view?.close?.();
        this.#view = undefined;
        const wanted = this.#resolve(route(location.hash));
        this.navigation.setCurrent(wanted);
        const view = this.#open(wanted);
        this.#view = view;
        document.title = `duality · ${view.title}`;
        this.header.setTitle(view.title, view.above);
        this.#content.replaceChildren(view.element);
        this.#content.dataset.view = wanted.view;
        if (this.#wasShown) announce(view.title);
        this.#wasShown = true;
        scrollTo(0, 0);
        view.refresh?.();
        this.#redraw();
    }

    #wasShown = false;

    #resolve(wanted) {
        const { collections } = this.index;
        if (wanted.view === "first") return collections.length === 0 ? { view: "service" } : { view: "duality", collection: collections[0] };
        const byName = (name) => collections.find((collection) => collection.name === name);
        if (wanted.view === "feed") return this.#resolveFeed(wanted, byName);
        if (wanted.view !== "duality" && wanted.view !== "aggregate") return wanted;
        return { ...wanted, collection: byName(wanted.name) };
    }

    #resolveFeed({ name, key }, byName) {
        if (name === undefined) return { view: "feed" };
        const path = `/${name}`;
        return { view: "feed", name, key, collection: byName(name) ?? this.index.collections.find(({ events }) => events === path) };
    }

    #open(wanted) {
        const { view, name, collection } = wanted;
        const needsCollection = view === "duality" || view === "aggregate" || (view === "feed" && name !== undefined);
        if (needsCollection && collection === undefined) return this.#unknown(name);
        if (view === "duality" && !this.loaded.has(collection.name)) return this.#long(collection);
        return new VIEWS[view]({ page: this, ...wanted });
    }

    #unknown(name) {
        const known = this.index.collections.map((collection) => element("li", {}, element("a", { href: links.collection(collection) }, collection.name)));
        return { title: "Nothing here", element: element("div", { class: "empty" }, element("p", {}, `There is no collection “${name}”. There are:`), element("ul", {}, known)) };
    }

    #long({ name }) {
        const bytes = this.sizes.get(name);
        const words = bytes === undefined ? "longer than the memory that the service has for shared bodies" : size(bytes);
        const action = button(`Load ${name}`, () => this.load(name), { class: "main" });
        return { title: name, element: element("div", { class: "empty" }, element("p", {}, `${name} is long (${words}), so this page has not loaded it.`), action) };
    }
}

/** The length of each collection in bytes; `undefined` if the service streams it. */
async function sizesOf(collections) {
    const sizes = new Map();
    await Promise.all(collections.map(async ({ name, state }) => {
        try {
            const response = await fetch(state, { method: "HEAD", cache: "no-store" });
            const length = response.headers.get("Content-Length");
            sizes.set(name, length === null ? undefined : Number(length));
        } catch {
            sizes.set(name, 0);
        }
    }));
    return sizes;
}

/** The names of the collections that are loaded at once, the shortest first; at least one. */
function affordable(collections, sizes) {
    const byLength = collections.map(({ name }) => [name, sizes.get(name) ?? Infinity]).sort((one, other) => one[1] - other[1]);
    const loaded = new Set();
    let sum = 0;
    for (const [name, length] of byLength) {
        sum += length;
        if (sum <= MOST_BYTES || loaded.size === 0) loaded.add(name);
    }
    return loaded;
}

new Page().start();
