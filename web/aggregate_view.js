/** One aggregate: its state, what can be done with it, and how it came to be. */

import { button, copyButton, Definitions, element, section, setText } from "./dom.js";
import { request, segment } from "./api.js";
import { Copy } from "./copy.js";
import { members } from "./json_text.js";
import { isObject, member } from "./patch.js";
import { aggregateForms } from "./orders.js";
import { ChangeHistory, JournalHistory } from "./history.js";
import { Timeline } from "./timeline.js";
import { snippets } from "./snippets.js";
import { links } from "./router.js";
import { grouped } from "./words.js";

/** How long what changed stays lit, and the shortest time between two loads, in milliseconds. */
const LIT = 1000;
const SHORTEST_INTERVAL = 250;

export class AggregateView {
    #text = "null";
    #isLoading = false;
    #isStale = false;
    #isClosed = false;
    #forms = [];
    /** The form that was used last; the snippet is about it. */
    #chosen = undefined;

    constructor({ page, collection, key }) {
        Object.assign(this, { page, collection, key, title: key });
        this.above = { href: links.collection(collection), text: collection.name };
        this.path = `${collection.state}/${segment(key)}`;
        this.history = collection.kind === "event-sourced" ? new JournalHistory(this.path) : new ChangeHistory(this.path);
        this.timeline = new Timeline(this.history);
        this.#build();
        // What the page does not follow is followed here.
        if (!page.loaded.has(collection.name)) this.own = new Copy({ state: this.path, events: `${this.path}/events` });
        this.stop = (this.own ?? page.copy).listen({ after: (message) => this.#after(message), changed: () => this.own?.isOpen && this.#load() });
        this.#load();
    }

    close() {
        this.stop();
        this.own?.close();
        this.#isClosed = true;
    }

    #build() {
        const { collection, key, path } = this;
        this.facts = new Definitions();
        this.state = element("pre", { class: "json", tabindex: "0", role: "region", "aria-label": "JSON" });
        this.none = element("p", { class: "empty", hidden: true });
        this.orders = element("div");
        this.problem = element("p", { class: "problem", role: "alert" });
        this.remove = button("Delete", () => confirm(`Delete ${path} for good?`) && this.#delete());
        const actions = [copyButton("Copy JSON", () => this.#text), element("a", { class: "button", href: links.aggregateFeed(collection, key) }, "Follow"), collection.kind === "state" ? this.remove : null];
        this.byHand = snippets(() => this.#chosen?.call() ?? { path });
        this.element = element("div", { class: "beside" },
            section("State", { remark: path, actions }, this.facts.element, this.state, this.none, this.problem, this.orders, this.byHand.element),
            this.timeline.element);
    }

    #after({ patch, id }) {
        const part = member(patch, this.collection.name);
        const own = this.own ? patch : isObject(part) ? member(part, this.key) : part;
        if (id !== "" && (own !== undefined || patch === null)) this.#load(own);
    }

    /** Loads the state as text and what led to it, again if something changes meanwhile. */
    async #load(patch) {
        this.#isStale = true;
        if (this.#isLoading) return;
        this.#isLoading = true;
        while (this.#isStale && !this.#isClosed) {
            this.#isStale = false;
            await this.#loadOnce(patch);
            await new Promise((resolve) => setTimeout(resolve, SHORTEST_INTERVAL));
        }
        this.#isLoading = false;
    }

    async #loadOnce(patch) {
        const { page: { copy, loaded }, collection, key, history } = this;
        // The copy knows what does not exist: then nothing is requested that would be refused.
        const isMissing = copy.document !== undefined && loaded.has(collection.name) && member(member(copy.document, collection.name), key) === undefined;
        const answer = isMissing ? { ok: false, status: 404 } : await request(this.path);
        let nothing = "Nothing has happened to it yet.";
        try {
            if (answer.ok || history.unit !== "version" || history.steps.length > 0) await history.load();
        } catch (error) {
            nothing = error.message;
        }
        setText(this.problem, answer.ok || answer.status === 404 ? "" : answer.problem.detail);
        this.state.hidden = this.orders.hidden = this.remove.disabled = !answer.ok;
        this.none.hidden = answer.status !== 404;
        setText(this.none, `${this.path} does not exist${history.steps.length > 0 ? " any more" : " yet"}. It can be followed nevertheless.`);
        if (answer.ok) this.#showState(answer, patch);
        this.timeline.update(nothing);
    }

    #showState({ text, headers }, patch) {
        this.#text = text;
        this.facts.set("revision", grouped(Number(/\.(\d+)/.exec(headers.get("ETag"))?.[1] ?? 0)));
        if (this.history.unit === "version") this.facts.set("version", grouped(this.history.steps.length));
        this.state.replaceChildren(...members(text, (name) => member(patch, name) !== undefined));
        setTimeout(() => this.state.querySelectorAll(".lit").forEach((node) => node.classList.remove("lit")), LIT);
        const state = JSON.parse(text);
        for (const form of this.#forms) form.update(state);
        if (this.#forms.length > 0) return;
        this.#forms = aggregateForms(this.collection, this.key, state, (form) => {
            this.#chosen = form;
            this.byHand.refresh();
        });
        this.orders.replaceChildren(...this.#forms.map((form) => form.element));
    }

    async #delete() {
        const answer = await request(this.path, { method: "DELETE" });
        if (!answer.ok) setText(this.problem, `${answer.problem.title}: ${answer.problem.detail}`);
    }
}
