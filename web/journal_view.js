/** The journal: what happened to event-sourced aggregates, in order, and for ever. */

import { messages } from "/follow.js";
import { button, copyButton, element, labelled, section, setText } from "./dom.js";
import { draw } from "./frame.js";
import { read, segment } from "./api.js";
import { fetchWithToken } from "./token.js";
import { Changes } from "./changes.js";
import { snippets } from "./snippets.js";
import { links } from "./router.js";
import { grouped, moment } from "./words.js";

/** Events that are loaded at once, and those in the page. */
const PAGE = 50;
const MOST_SHOWN = 500;

/** How long to wait before the next attempt to connect, in milliseconds. */
const DELAY = 2000;

export class JournalView {
    title = "Journal";
    #controller = new AbortController();
    #id = "";
    /** The position of the first event that is shown. */
    #first = 1;

    constructor({ page, name = "" }) {
        this.page = page;
        this.name = name;
        this.path = page.index.journal + (name === "" ? "" : `?collection=${segment(name)}`);
        const names = page.index.collections.filter(({ kind }) => kind === "event-sourced").map((collection) => collection.name);
        const options = ["", ...names].map((value) => element("option", { value, selected: value === name }, value || "everything"));
        const select = element("select", { onchange: () => { location.hash = `${links.journal}/${segment(select.value)}`; } }, options);
        this.events = new Changes({ label: "Events", most: MOST_SHOWN });
        this.earlier = button("Earlier events", () => this.#loadEarlier(), { hidden: true });
        this.none = element("p", { class: "empty" }, "Loading …");
        this.trouble = element("p", { class: "problem", role: "status" });
        this.byHand = snippets(() => ({ path: this.path, isStream: true, lastId: this.#id }));
        this.element = element("div", {}, element("div", { class: "tools page" }, labelled("Journal of", select)),
            section("Events", { remark: this.path, actions: copyButton("Copy JSON", () => this.events.json()), className: "long" },
                this.trouble, this.none, this.events.element, element("p", {}, this.earlier), this.byHand.element));
        this.#live();
    }

    close() {
        this.#controller.abort();
    }

    async #live() {
        const { signal } = this.#controller;
        let delay = DELAY;
        const onRetry = (time) => { delay = Math.max(DELAY, time); };
        const opened = async (...request) => {
            const response = await fetchWithToken(...request);
            if (response.ok) setText(this.trouble, "");
            return response;
        };
        while (!signal.aborted) {
            try {
                if (this.#id === "") await this.#loadLast();
                for await (const { id, data } of messages(this.path, { lastEventId: this.#id, signal, fetch: opened, onRetry })) {
                    this.#id = id;
                    this.events.add(this.#entry(JSON.parse(data), id, data));
                    draw(this);
                }
            } catch (error) {
                if (error.status === 403) return this.none.replaceChildren(error.message);
                setText(this.trouble, `Not connected: ${error.message}. Trying again …`);
                // The database is another one.
                if (error.status === 410) [this.#id, this.events.entries] = ["", []];
            }
            await new Promise((resolve) => setTimeout(resolve, delay));
        }
    }

    /** Loads the last page; the stream goes on after it. */
    async #loadLast() {
        const { epoch, position } = await read(this.page.index.health);
        this.epoch = epoch;
        this.#first = position + 1;
        await this.#loadEarlier();
        this.#id = `${epoch}.${position}`;
        setText(this.none, this.name === "" ? "The journal is empty. Send a command to an event-sourced aggregate, and its events appear here." : `Nothing has happened in ${this.name} yet.`);
        draw(this);
    }

    /** Pages go forward, so one begins where it ends at what is shown; with a filter, until something is found. */
    async #loadEarlier() {
        for (let found = 0; this.#first > 1 && found === 0;) {
            const after = Math.max(0, this.#first - 1 - PAGE);
            const page = await read(`${this.page.index.journal}?limit=${this.#first - 1 - after}&lastEventId=${this.epoch}.${after}`);
            const events = page.events.filter(({ collection }) => this.name === "" || collection === this.name);
            this.events.addPast(events.map((event) => this.#entry(event, `${this.epoch}.${event.position}`, JSON.stringify(event))));
            this.#first = after + 1;
            found = events.length;
        }
        draw(this);
    }

    #entry({ position, collection: name, key, kind, version, time }, id, text) {
        const collection = this.page.index.collections.find((one) => one.name === name);
        const subject = element("a", { href: collection && links.aggregate(collection, key) }, `${name} ${key}`);
        const head = () => element("p", {}, element("strong", {}, kind), " ", subject, ` version ${grouped(version)}`, moment(time));
        return { id, revision: position, text: text.slice(text.indexOf("\"body\":") + 7, -1), head };
    }

    render() {
        this.none.hidden = this.events.entries.length > 0;
        this.earlier.hidden = this.#first <= 1 || this.events.entries.length >= MOST_SHOWN;
        this.events.render();
        if (this.shownId !== this.#id) this.byHand.refresh();
        this.shownId = this.#id;
    }
}
