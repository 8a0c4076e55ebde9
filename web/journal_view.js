/** The journal: what happened to event-sourced aggregates, in order, and for ever. */

import { messages } from "/follow.js";
import { button, copyButton, element, section, setText } from "./dom.js";
import { draw } from "./frame.js";
import { read } from "./api.js";
import { Changes } from "./changes.js";
import { snippets } from "./snippets.js";
import { links } from "./router.js";
import { grouped } from "./words.js";

/** Events that are loaded at first, and with each click on “Earlier”. */
const PAGE = 50;

/** Events in the page. */
const MOST_SHOWN = 500;

/** How long to wait before the next attempt to connect, in milliseconds. */
const DELAY = 2000;

export class JournalView {
    title = "Journal";
    #controller = new AbortController();
    #id = "";
    #first = Infinity;
    #trouble = "";
    #render = () => this.render();

    constructor({ page, name }) {
        this.page = page;
        this.name = name;
        this.query = name === undefined ? "" : `?collection=${encodeURIComponent(name)}`;
        this.#build();
        this.refresh = () => draw(this.#render);
        this.#live();
    }

    close() {
        this.#controller.abort();
    }

    #build() {
        const { page, name } = this;
        const names = page.index.collections.filter(({ kind }) => kind === "event-sourced").map((collection) => collection.name);
        const options = [["everything", ""], ...names.map((one) => [one, one])].map(([text, value]) => element("option", { value, selected: value === (name ?? "") }, text));
        const select = element("select", { id: "journal-choice", onchange: () => { location.hash = `${links.journal()}/${encodeURIComponent(select.value)}`; } }, options);
        this.events = new Changes({ label: "Events", most: MOST_SHOWN });
        this.earlier = button("Earlier events", () => this.#loadEarlier());
        this.none = element("p", { class: "empty" }, "Loading …");
        this.trouble = element("p", { class: "problem", role: "status" });
        this.byHand = snippets(() => ({ path: `${page.index.journal}${this.query}`, isStream: true, headers: this.#id === "" ? {} : { "Last-Event-ID": this.#id } }));
        this.element = element("div", {},
            element("div", { class: "tools page" }, element("label", { for: "journal-choice" }, "Journal of"), select),
            section("Events", { remark: `GET ${page.index.journal}${this.query}`, actions: [copyButton("Copy JSON", () => this.events.json())], className: "long" },
                this.trouble, this.none, this.events.element, element("p", { class: "row" }, this.earlier), this.byHand.element));
    }

    async #live() {
        const { signal } = this.#controller;
        while (!signal.aborted) {
            try {
                if (this.#id === "") await this.#loadLast();
                this.#trouble = "";
                for await (const message of messages(`${this.page.index.journal}${this.query}`, { lastEventId: this.#id, signal })) {
                    this.#trouble = "";
                    this.#id = message.id ?? this.#id;
                    this.events.add({ ...entryOf(this.page, JSON.parse(message.data), message.data), id: message.id, time: Date.now() });
                    draw(this.#render);
                }
            } catch (error) {
                this.#trouble = signal.aborted ? "" : `Not connected: ${error.message}. Trying again …`;
            }
            draw(this.#render);
            if (!signal.aborted) await new Promise((resolve) => setTimeout(resolve, DELAY));
        }
    }

    /** Loads the last page; the stream goes on after it. */
    async #loadLast() {
        const { epoch, position } = await read(this.page.index.health ?? "/healthz");
        this.epoch = epoch;
        this.#first = position + 1;
        this.#id = `${epoch}.${position}`;
        await this.#loadEarlier();
    }

    /** Pages go forward, so one begins where it ends at what is shown; with a filter, it is repeated until something is found. */
    async #loadEarlier() {
        let found = 0;
        while (this.#first > 1 && found === 0) {
            const after = Math.max(0, this.#first - 1 - PAGE);
            const limit = this.#first - 1 - after;
            const page = await read(`${this.page.index.journal}?limit=${limit}&lastEventId=${this.epoch}.${after}`);
            const events = page.events.filter(({ collection }) => this.name === undefined || collection === this.name);
            this.events.addPast(events.map((event) => ({ ...entryOf(this.page, event, JSON.stringify(event)), id: `${this.epoch}.${event.position}` })));
            this.#first = after + 1;
            found = events.length;
        }
        setText(this.none, this.name === undefined ? "The journal is empty. It has every event of every event-sourced aggregate: send a command, and it appears here." : `Nothing has happened in ${this.name} yet.`);
        draw(this.#render);
    }

    render() {
        this.none.hidden = this.events.entries.length > 0;
        this.earlier.hidden = this.#first <= 1 || this.#first === Infinity || this.events.entries.length >= MOST_SHOWN;
        setText(this.trouble, this.#trouble);
        this.events.render();
        if (this.#shownId !== this.#id) this.byHand.refresh();
        this.#shownId = this.#id;
    }

    #shownId = "";
}

/** An event as it stands in the list: its body as it was written, from the text of the message. */
function entryOf(page, event, text) {
    const collection = page.index.collections.find(({ name }) => name === event.collection);
    const name = `${event.collection} ${event.key}`;
    const subject = collection === undefined ? name : element("a", { href: links.aggregate(collection, event.key) }, name);
    const body = text.slice(text.indexOf("\"body\":") + 7, -1);
    const time = element("time", { datetime: event.time }, event.time.slice(0, 19).replace("T", " "));
    return { label: grouped(event.position), revision: event.position, text: body, head: () => element("p", {}, element("strong", {}, event.kind), " ", subject, ` version ${grouped(event.version)}`, time) };
}
