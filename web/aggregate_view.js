/** One aggregate: its state, what can be done with it, and how it came to be. */

import { carefulButton, copyButton, element, section, setText } from "./dom.js";
import { draw } from "./frame.js";
import { request, segment } from "./api.js";
import { members } from "./json_text.js";
import { isObject, member } from "./patch.js";
import { aggregateForms } from "./orders.js";
import { definitions } from "./feed_view.js";
import { ChangeHistory, JournalHistory } from "./history.js";
import { Timeline } from "./timeline.js";
import { snippets } from "./snippets.js";
import { links } from "./router.js";
import { grouped } from "./words.js";

/** How long what changed stays lit, and the shortest time between two loads, in milliseconds. */
const LIT = 1000;
const SHORTEST_INTERVAL = 250;

export class AggregateView {
    #text = "";
    #isLoading = false;
    #isStale = false;
    #forms = [];

    constructor({ page, collection, key }) {
        Object.assign(this, { page, collection, key, title: key });
        this.above = { href: links.collection(collection), text: collection.name };
        this.path = `${collection.state}/${segment(key)}`;
        this.history = collection.kind === "event-sourced" ? new JournalHistory(this.path) : new ChangeHistory(this.path);
        this.timeline = new Timeline({ unit: this.history.unit, remark: this.history.remark, stateAt: (index) => this.history.stateAt(index), shown: () => this.travelByHand?.refresh() });
        this.#build();
        this.stop = page.copy.listen({ after: (message) => this.#after(message) });
        this.#load();
    }

    close() {
        this.stop();
        this.isClosed = true;
    }

    #build() {
        const { collection, key, path } = this;
        this.facts = definitions(collection.kind === "event-sourced" ? ["revision", "version"] : ["revision"]);
        this.state = element("pre", { class: "json", tabindex: "0", role: "region", "aria-label": "State" });
        this.none = element("p", { class: "empty", hidden: true });
        this.orders = element("div");
        this.problem = element("p", { class: "problem", role: "alert" });
        this.remove = carefulButton("Delete", "Delete it for good?", () => this.#delete());
        const actions = [copyButton("Copy JSON", () => this.#text), element("a", { class: "button", href: links.aggregateFeed(collection, key) }, "Follow")];
        if (collection.kind === "state") actions.push(this.remove);
        this.byHand = snippets(() => this.#call());
        this.travelByHand = snippets(() => ({ path: this.history.statePath(this.timeline.at) }), "Travel by hand");
        this.timeline.element.append(this.travelByHand.element);
        this.element = element("div", { class: "beside" },
            section("State", { remark: `GET ${path}`, actions }, this.facts.element, this.state, this.none, this.problem, this.orders, this.byHand.element),
            this.timeline.element);
    }

    #after(message) {
        const part = isObject(message.patch) ? member(message.patch, this.collection.name) : null;
        const patch = isObject(part) ? member(part, this.key) : part;
        if (patch !== undefined && message.id !== "") this.#load(patch);
    }

    /** Loads the state as text and what led to it, again if something changes meanwhile. */
    async #load(patch) {
        this.#isStale = true;
        if (this.#isLoading) return;
        this.#isLoading = true;
        while (this.#isStale && !this.isClosed) {
            this.#isStale = false;
            await this.#loadOnce(patch);
            await new Promise((resolve) => setTimeout(resolve, SHORTEST_INTERVAL));
        }
        this.#isLoading = false;
    }

    async #loadOnce(patch) {
        const { page, collection, key } = this;
        const isKnown = page.loaded.has(collection.name) && page.copy.document !== undefined;
        const isThere = !isKnown || member(member(page.copy.document, collection.name), key) !== undefined;
        const answer = isThere ? await request(this.path) : undefined;
        if (answer !== undefined && !answer.ok && answer.status !== 404) {
            this.problem.textContent = answer.problem.detail;
            return;
        }
        let nothing = "Nothing has happened to it yet.";
        try {
            if (isThere || this.history.steps.length > 0 || collection.kind !== "event-sourced") await this.history.load();
        } catch (error) {
            nothing = error.message;
        }
        draw(() => this.#show(answer, patch, nothing));
    }

    #show(answer, patch, nothing) {
        const { history } = this;
        this.problem.textContent = "";
        const isThere = answer?.ok === true;
        this.state.hidden = this.orders.hidden = !isThere;
        this.remove.disabled = !isThere;
        this.none.hidden = isThere;
        if (isThere) this.#showState(answer, patch);
        else setText(this.none, `${this.path} does not exist${history.steps.length > 0 ? " any more" : " yet"}. It can be followed nevertheless: its feed sends null, and its creation when it comes.`);
        this.timeline.setSteps([...history.steps], nothing);
    }

    #showState(answer, patch) {
        const tag = /\.(\d+)/.exec(answer.headers.get("ETag") ?? "");
        if (tag !== null) this.facts.set("revision", grouped(Number(tag[1])));
        if (this.history.unit === "version") this.facts.set("version", grouped(this.history.steps.length));
        this.state.replaceChildren(members(answer.text, (name) => isObject(patch) && Object.hasOwn(patch, name)));
        setTimeout(() => this.state.querySelectorAll(".lit").forEach((node) => node.classList.remove("lit")), LIT);
        this.#text = answer.text;
        const state = JSON.parse(answer.text);
        if (this.#forms.length > 0) {
            for (const form of this.#forms) form.update(state);
            return;
        }
        this.#forms = aggregateForms(this.collection, this.key, state, (_answer, form) => !form.order.isPatch && form.reset());
        for (const form of this.#forms) form.element.addEventListener("focusin", () => this.#choose(form));
        for (const form of this.#forms) form.element.addEventListener("input", () => this.#choose(form));
        this.orders.replaceChildren(...this.#forms.map((form) => form.element));
        this.byHand.refresh();
    }

    /** The snippet is about the form that was used last. */
    #choose(form) {
        this.chosen = form;
        this.byHand.refresh();
    }

    #call() {
        if (this.chosen === undefined) return { path: this.path };
        const { method, path } = this.chosen.order;
        return { path: path(), method, body: this.chosen.body() };
    }

    async #delete() {
        const answer = await request(this.path, { method: "DELETE" });
        if (!answer.ok) this.problem.textContent = `${answer.problem.title}: ${answer.problem.detail}`;
    }
}
