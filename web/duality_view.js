/** A collection: its state and the changes that made it face each other. */

import { button, copyButton, element, section, setText } from "./dom.js";
import { draw } from "./frame.js";
import { OrderedKeys } from "./ordered_keys.js";
import { Table } from "./table.js";
import { Changes, revisionLabel } from "./changes.js";
import { createForm } from "./orders.js";
import { snippets, curl } from "./snippets.js";
import { isObject, member } from "./patch.js";
import { count, grouped } from "./words.js";
import { links } from "./router.js";
import { request } from "./api.js";

/** How long what changed stays lit, in milliseconds. */
const LIT = 1000;

/** How many revisions back the view looks for the changes that made the state. */
const MOST_PAST = 40;

/** Members that get a column of their own. */
const MOST_COLUMNS = 6;

export class DualityView {
    #keys = new OrderedKeys();
    #filter = "";
    #lit = new Map();
    #gone = new Map();
    #revisions = new Map();
    #pointed = undefined;
    #columns = [];
    #isLoaded = false;
    #loadedAt = 0;
    #timer = 0;
    #needsAll = true;
    #render = () => this.render();

    constructor({ page, collection }) {
        this.page = page;
        this.collection = collection;
        this.copy = page.copy;
        this.title = collection.name;
        this.stop = this.copy.listen({ before: (message) => this.#before(message), after: (message) => this.#after(message), changed: () => this.#changed() });
        this.#build();
        this.#changed();
        this.refresh = () => draw(this.#render);
    }

    /** The changes that made the state: the last ones that the service retains. */
    async #loadPast() {
        const { epoch, revision: last } = this.copy;
        const from = `${epoch}.${Math.max(0, last - MOST_PAST)}`;
        const answer = await request(`${this.collection.events}?lastEventId=${from}&limit=${MOST_PAST}`);
        if (!answer.ok) return;
        const { events } = JSON.parse(answer.text);
        // Without a revision, they are a catch-up: states, and not the changes.
        this.changes.addPast(events.filter(({ revision }) => revision !== undefined).map(({ revision, patch }) => (
            { label: revisionLabel(revision), id: `${epoch}.${revision}`, revision, text: JSON.stringify(patch), patch }
        )));
        draw(this.#render);
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
            isGone: (key) => this.#gone.has(key), redraw: () => draw(this.#render),
        });
        this.changes = new Changes({ label: `Changes of ${collection.name}`, pick: (entry) => this.#pick(entry), point: (entry) => this.#point(entry) });
        this.search = element("input", { type: "search", placeholder: "Filter by key or content", "aria-label": `Filter ${collection.name}`, oninput: () => this.#setFilter() });
        this.found = element("span", { class: "found", role: "status" });
        this.none = element("div", { class: "empty" });
        this.form = createForm(this.page, collection, { changed: () => this.byHand.refresh() });
        this.byHand = snippets(() => this.#createCall(), collection.create ? "Create by hand" : "Read by hand");
        this.followByHand = snippets(() => this.#followCall(), "Follow by hand");
        const copyState = copyButton("Copy JSON", () => JSON.stringify(this.#state(), null, 2));
        const state = section("State", { remark: `GET ${collection.state}`, actions: [copyState], className: "state" },
            element("div", { class: "tools" }, this.search, this.found), this.table.element, this.none, this.form?.element ?? null, this.byHand.element);
        const copyChanges = copyButton("Copy JSON", () => this.changes.json());
        const feedLink = element("a", { class: "button", href: links.feed(collection) }, "Cut and come back …");
        this.quiet = element("p", { class: "empty" }, `No changes since this page was opened. Every write to ${collection.name} will appear here as the merge patch that all consumers get.`);
        const changes = section("Changes", { remark: `GET ${collection.events}`, actions: [copyChanges, feedLink], className: "changes" },
            this.quiet, this.changes.element, this.followByHand.element);
        this.spine = element("p", { class: "spine", title: "The revision of both sides" }, element("b", {}, "…"));
        this.element = element("div", { class: "duality" }, state, this.spine, changes);
    }

    #state() {
        const state = member(this.copy.document, this.collection.name);
        return isObject(state) ? state : {};
    }

    #changed() {
        if (!this.#isLoaded && this.copy.document !== undefined) {
            this.#isLoaded = true;
            this.#loadedAt = this.copy.revision;
            this.#loadPast();
        }
        draw(this.#render);
    }

    #part(message) {
        return isObject(message.patch) ? member(message.patch, this.collection.name) : undefined;
    }

    /** Keeps what a message deletes, so that one sees it go. */
    #before(message) {
        const part = this.#part(message);
        if (!message.isExact || !isObject(part)) return;
        const state = this.#state();
        for (const key of Object.keys(part)) {
            if (part[key] === null && Object.hasOwn(state, key)) this.#gone.set(key, { aggregate: state[key], until: message.time + LIT });
        }
    }

    #after(message) {
        if (!isObject(message.patch)) {
            this.#needsAll = true;
            draw(this.#render);
            return;
        }
        const part = this.#part(message);
        if (part === undefined) {
            draw(this.#render);
            return;
        }
        if (!isObject(part)) this.#needsAll = true;
        else for (const key of Object.keys(part)) this.#touch(key, part[key], message);
        const text = JSON.stringify(part);
        this.changes.add({ label: revisionLabel(message.revision), id: message.id, revision: message.revision, text, time: message.time, patch: part });
        draw(this.#render);
    }

    #touch(key, patch, { revision, time }) {
        const aggregate = member(this.#state(), key);
        if (aggregate !== undefined) {
            this.#gone.delete(key);
            this.#lit.set(key, { members: isObject(patch) ? patch : {}, until: time + LIT });
            if (isObject(aggregate) && isObject(patch)) for (const name of Object.keys(patch)) this.#addColumn(name, patch[name]);
        }
        if (revision !== undefined) this.#revisions.set(key, revision);
        if (aggregate === undefined ? this.#gone.has(key) : this.#matches(key, aggregate)) this.#keys.add(key);
        else this.#keys.remove(key);
    }

    #matches(key, aggregate) {
        if (this.#filter === "") return true;
        return key.toLowerCase().includes(this.#filter) || JSON.stringify(aggregate).toLowerCase().includes(this.#filter);
    }

    #setFilter() {
        this.#filter = this.search.value.trim().toLowerCase();
        this.#needsAll = true;
        this.table.element.scrollTop = 0;
        draw(this.#render);
    }

    #readAll() {
        const state = this.#state();
        const keys = Object.keys(state);
        this.#needsAll = false;
        this.#keys.replace(keys.filter((key) => this.#matches(key, state[key])));
        for (const key of keys.slice(0, 100)) {
            if (isObject(state[key])) for (const name of Object.keys(state[key])) this.#addColumn(name, state[key][name]);
        }
    }

    #addColumn(name, value) {
        if (value === null || this.#columns.length >= MOST_COLUMNS || this.#columns.some((column) => column.name === name)) return;
        this.#columns.push({ name, isNumber: typeof value === "number" });
    }

    #cells(key) {
        const gone = this.#gone.get(key);
        const aggregate = gone?.aggregate ?? member(this.#state(), key);
        const lit = this.#lit.get(key);
        const pointed = isObject(this.#pointed?.patch) ? member(this.#pointed.patch, key) : undefined;
        const cells = this.#columns.map(({ name, isNumber }) => ({
            text: cellText(member(aggregate, name)), isNumber,
            isLit: lit !== undefined && Object.hasOwn(lit.members, name),
            isPointedAt: isObject(pointed) && Object.hasOwn(pointed, name),
        }));
        const revision = this.#revisions.get(key);
        const text = revision === undefined ? `≤ ${grouped(this.#loadedAt)}` : grouped(revision);
        return [...cells, { text, isNumber: true, isLit: lit !== undefined, isPointedAt: pointed !== undefined && pointed !== null }];
    }

    render() {
        if (this.copy.document === undefined) return;
        if (this.#needsAll) this.#readAll();
        this.#forget(Date.now());
        const total = Object.keys(this.#state()).length;
        const keys = this.#keys.all;
        this.table.setColumns([{ name: "key" }, ...this.#columns, { name: "revision", isNumber: true }]);
        this.table.element.hidden = keys.length === 0;
        this.table.table.classList.toggle("wide-keys", keys.length > 0 && keys[0].length > 8);
        this.table.render(keys);
        this.#renderEmpty(total, keys.length);
        setText(this.found, this.#filter === "" ? count(total, "row") : `${grouped(keys.length)} of ${grouped(total)}`);
        setText(this.spine.firstChild, grouped(this.copy.revision));
        this.quiet.hidden = this.changes.entries.length > 0;
        this.changes.render();
        if (this.#shownRevision !== this.copy.revision) this.#refreshSnippet();
    }

    #shownRevision = -1;

    /** The snippet has the last id; it is not changed under the pointer while messages pour in. */
    #refreshSnippet() {
        const now = Date.now();
        if (now - this.#refreshedAt < LIT) return;
        this.#refreshedAt = now;
        this.#shownRevision = this.copy.revision;
        this.followByHand.refresh();
    }

    #refreshedAt = 0;

    #renderEmpty(total, shown) {
        this.none.hidden = shown > 0;
        if (shown > 0) return;
        if (total > 0) {
            this.none.replaceChildren(`None of ${count(total, "row")} contains “${this.search.value}”. `, button("Show all", () => {
                this.search.value = "";
                this.#setFilter();
            }));
            return;
        }
        const { collection } = this;
        const hint = collection.kind === "derived"
            ? "They are derived from other collections: write there, and they appear here in the same revision."
            : "Create one with the form below, or run:";
        const command = collection.kind === "derived" ? null : element("pre", { class: "mono" }, curl(this.#createCall()));
        this.none.replaceChildren(element("p", {}, `No ${collection.name} yet. ${hint}`), ...[command].filter(Boolean));
    }

    /** Ends what was lit long enough, and draws again when the next one ends. */
    #forget(now) {
        let next = Infinity;
        for (const [key, { until }] of this.#lit) {
            if (until <= now) this.#lit.delete(key);
            else next = Math.min(next, until);
        }
        for (const [key, { until }] of this.#gone) {
            if (until <= now) {
                this.#gone.delete(key);
                if (!Object.hasOwn(this.#state(), key)) this.#keys.remove(key);
            } else {
                next = Math.min(next, until);
            }
        }
        clearTimeout(this.#timer);
        if (next !== Infinity) this.#timer = setTimeout(() => draw(this.#render), next - now + 1);
    }

    #point(entry) {
        this.#pointed = entry;
        draw(this.#render);
    }

    #pick(entry) {
        this.#point(entry);
        const first = Object.keys(entry.patch ?? {}).find((key) => this.#keys.indexOf(key) >= 0);
        if (first !== undefined) this.table.show(this.#keys.indexOf(first), { focus: true });
    }

    #createCall() {
        const { collection, form } = this;
        if (form === undefined) return { path: collection.state };
        const body = form.body();
        const isEmpty = body === undefined || body === "{}" || body === "{\"name\":\"\"}";
        const example = form.example;
        return { path: form.path(form), method: form.order.method, body: isEmpty ? example : body };
    }

    #followCall() {
        const { collection, copy } = this;
        return { path: collection.events, isStream: true, statePath: collection.state, headers: { "Last-Event-ID": copy.id } };
    }
}

/** A value in a cell: text as it is, everything else as JSON. */
function cellText(value) {
    if (value === undefined || value === null) return "";
    if (typeof value === "string") return value;
    const text = JSON.stringify(value);
    return text.length > 200 ? `${text.slice(0, 200)}…` : text;
}
