/** A collection: its state and the changes that made it face each other. */

import { copyButton, copyJson, element, section, setText } from "./dom.js";
import { draw } from "./frame.js";
import { OrderedKeys } from "./ordered_keys.js";
import { Table } from "./table.js";
import { Changes } from "./changes.js";
import { createForm } from "./orders.js";
import { snippets, curl } from "./snippets.js";
import { isObject, member } from "./patch.js";
import { count, grouped } from "./words.js";
import { links } from "./router.js";
import { request } from "./api.js";

/** How long what changed stays lit, in milliseconds. */
const LIT = 1000;

/** The revisions whose changes are loaded. */
const MOST_PAST = 40;

const MOST_COLUMNS = 6;

export class DualityView {
    #keys = new OrderedKeys();
    #filter = "";
    /** What changed, and what was deleted, by key, for as long as it is lit. */
    #lit = new Map();
    #gone = new Map();
    #revisions = new Map();
    #pointed = undefined;
    #columns = [];
    #loadedAt = undefined;
    #timer = 0;
    #needsAll = true;

    constructor({ page, collection }) {
        Object.assign(this, { collection, copy: page.copy, title: collection.name });
        this.stop = this.copy.listen({ before: (message) => this.#before(message), after: (message) => this.#after(message), changed: () => this.#changed() });
        this.#build();
        this.#changed();
    }

    close() {
        this.stop();
        clearTimeout(this.#timer);
        this.table.close();
    }

    #build() {
        const { collection } = this;
        this.table = new Table({
            label: collection.name, link: (key) => links.aggregate(collection, key), cells: (key) => this.#cells(key),
            isGone: (key) => this.#gone.has(key), redraw: () => draw(this),
        });
        this.changes = new Changes({ label: `Changes of ${collection.name}`, pick: (entry) => this.#pick(entry), point: (entry) => this.#point(entry) });
        this.search = element("input", { type: "search", placeholder: "Filter by key or content", "aria-label": `Filter ${collection.name}`, oninput: () => this.#setFilter() });
        this.found = element("span", { class: "soft", role: "status" });
        this.none = element("div", { class: "empty" });
        this.form = createForm(collection, () => this.byHand.refresh());
        this.byHand = snippets(() => this.#createCall(), this.form === undefined ? "Read by hand" : "Create by hand");
        this.followByHand = snippets(() => ({ path: collection.events, isFeed: true, lastId: this.copy.id }), "Follow by hand");
        this.quiet = element("p", { class: "empty" }, `No changes yet. Every write to ${collection.name} appears here as the merge patch that all consumers get.`);
        this.spine = element("p", { class: "spine" }, element("b", {}, "…"));
        const feed = element("a", { class: "button", href: links.feed(collection) }, "Cut and come back …");
        this.element = element("div", { class: "duality" },
            section("State", { remark: collection.state, actions: copyJson(() => this.#state()), className: "state" },
                element("div", { class: "tools" }, this.search, this.found), this.table.element, this.none, this.form?.element, this.byHand.element),
            this.spine,
            section("Changes", { remark: collection.events, actions: [copyButton("Copy JSON", () => this.changes.json()), feed], className: "changes" },
                this.quiet, this.changes.element, this.followByHand.element));
    }

    #state() {
        return member(this.copy.document, this.collection.name) ?? {};
    }

    #changed() {
        if (this.#loadedAt === undefined && this.copy.document !== undefined) {
            this.#loadedAt = this.copy.revision;
            this.#loadPast();
        }
        draw(this);
    }

    async #loadPast() {
        const { epoch, revision: last } = this.copy;
        const answer = await request(`${this.collection.events}?lastEventId=${epoch}.${Math.max(0, last - MOST_PAST)}&limit=${MOST_PAST}`);
        if (!answer.ok) return;
        // Without a revision, they are a catch-up: states, and not the changes.
        const events = JSON.parse(answer.text).events.filter(({ revision }) => revision !== undefined);
        this.changes.addPast(events.map(({ revision, patch }) => ({ id: `${epoch}.${revision}`, revision, text: JSON.stringify(patch), patch })));
        draw(this);
    }

    #before({ patch, isExact, time }) {
        const part = member(patch, this.collection.name);
        if (!isExact || !isObject(part)) return;
        const state = this.#state();
        for (const key of Object.keys(part)) {
            if (part[key] === null && Object.hasOwn(state, key)) this.#gone.set(key, { aggregate: state[key], until: time + LIT });
        }
    }

    #after(message) {
        const part = member(message.patch, this.collection.name);
        if (isObject(part)) {
            for (const key of Object.keys(part)) this.#touch(key, part[key], message);
            this.changes.add({ ...message, text: JSON.stringify(part), patch: part });
        } else if (part !== undefined || message.patch === null) {
            this.#needsAll = true;
        }
        if (message.patch === null) this.#revisions.clear();
        if (!message.isChange) this.#loadedAt = message.revision ?? this.#loadedAt;
        draw(this);
    }

    #touch(key, patch, { revision, isChange, time }) {
        const aggregate = member(this.#state(), key);
        if (aggregate !== undefined) {
            this.#gone.delete(key);
            this.#lit.set(key, { members: patch, until: time + LIT });
            this.#addColumns(patch);
        }
        // What a catch-up brings has changed at some time before.
        if (isChange && aggregate !== undefined) this.#revisions.set(key, revision);
        else this.#revisions.delete(key);
        if (aggregate === undefined ? this.#gone.has(key) : this.#matches(key, aggregate)) this.#keys.add(key);
        else this.#keys.remove(key);
    }

    #matches(key, aggregate) {
        return this.#filter === "" || `${key} ${JSON.stringify(aggregate)}`.toLowerCase().includes(this.#filter);
    }

    #setFilter() {
        this.#filter = this.search.value.trim().toLowerCase();
        this.#needsAll = true;
        this.table.element.scrollTop = 0;
        draw(this);
    }

    #readAll() {
        const state = this.#state();
        const keys = Object.keys(state);
        this.#needsAll = false;
        this.#keys.replace(keys.filter((key) => this.#matches(key, state[key])));
        for (const key of keys.slice(0, 100)) this.#addColumns(state[key]);
    }

    #addColumns(members) {
        if (!isObject(members)) return;
        for (const [name, value] of Object.entries(members)) {
            const isKnown = value === null || this.#columns.some((column) => column.name === name);
            if (!isKnown && this.#columns.length < MOST_COLUMNS) this.#columns.push({ name, isNumber: typeof value === "number" });
        }
    }

    #cells(key) {
        const aggregate = this.#gone.get(key)?.aggregate ?? member(this.#state(), key);
        const lit = this.#lit.get(key);
        const pointed = member(this.#pointed?.patch, key);
        const cells = this.#columns.map(({ name, isNumber }) => ({
            text: cellText(member(aggregate, name)), isNumber, isLit: member(lit?.members, name) !== undefined, isPointedAt: member(pointed, name) !== undefined,
        }));
        const revision = this.#revisions.get(key);
        const text = revision === undefined ? `≤ ${grouped(this.#loadedAt)}` : grouped(revision);
        return [...cells, { text, isNumber: true, isLit: lit !== undefined, isPointedAt: isObject(pointed) }];
    }

    render() {
        const { copy, table } = this;
        if (copy.document === undefined) return;
        if (this.#needsAll) this.#readAll();
        this.#forget(Date.now());
        const total = Object.keys(this.#state()).length;
        const keys = this.#keys.all;
        table.setColumns([{ name: "key" }, ...this.#columns, { name: "revision", isNumber: true }]);
        table.element.hidden = keys.length === 0;
        table.element.classList.toggle("wide-keys", keys[0]?.length > 8);
        table.render(keys);
        this.none.hidden = keys.length > 0;
        if (keys.length === 0) this.none.replaceChildren(...this.#nothing(total));
        setText(this.found, this.#filter === "" ? count(total, "row") : `${grouped(keys.length)} of ${grouped(total)}`);
        setText(this.spine.firstChild, grouped(copy.revision));
        this.quiet.hidden = this.changes.entries.length > 0;
        this.changes.render();
        this.followByHand.refreshSometimes();
    }

    #nothing(total) {
        if (total > 0) return [`None of ${count(total, "row")} contains “${this.search.value}”.`];
        const { name, kind, source = "other collections" } = this.collection;
        const start = `No ${name} yet. `;
        if (kind === "derived") return [`${start}They are derived from ${source}: write there, and they appear here in the same revision.`];
        return [element("p", {}, `${start}Create one, or run:`), element("pre", {}, curl(this.#createCall()))];
    }

    /** Draws again when the next one ends. */
    #forget(now) {
        let next = Infinity;
        for (const entries of [this.#lit, this.#gone]) {
            for (const [key, { until }] of entries) {
                if (until > now) {
                    next = Math.min(next, until);
                    continue;
                }
                entries.delete(key);
                if (entries === this.#gone && member(this.#state(), key) === undefined) this.#keys.remove(key);
            }
        }
        clearTimeout(this.#timer);
        if (next !== Infinity) this.#timer = setTimeout(() => draw(this), next - now + 1);
    }

    #point(entry) {
        this.#pointed = entry;
        draw(this);
    }

    #pick(entry) {
        this.#point(entry);
        const first = Object.keys(entry.patch).find((key) => this.#keys.indexOf(key) >= 0);
        if (first !== undefined) this.table.show(this.#keys.indexOf(first));
    }

    #createCall() {
        return this.form?.call() ?? { path: this.collection.state };
    }
}

function cellText(value) {
    if (value === undefined || value === null) return "";
    return typeof value === "string" ? value : JSON.stringify(value).slice(0, 200);
}
