/** A feed, message by message: pause it, cut it, and come back with any cursor. */

import { button, copyButton, element, section, setText } from "./dom.js";
import { draw } from "./frame.js";
import { Copy } from "./copy.js";
import { Changes, revisionLabel } from "./changes.js";
import { snippets } from "./snippets.js";
import { segment } from "./api.js";
import { links } from "./router.js";
import { count, grouped } from "./words.js";

/** What a service of another history could have given. */
const FOREIGN_EPOCH = "another-epoch";

export class FeedView {
    #isPaused = false;
    #hidden = [];
    #return = undefined;
    #comparison = { text: "not compared yet", state: "" };
    #render = () => this.render();

    constructor({ page, collection, key }) {
        this.page = page;
        this.paths = pathsOf(page.index, collection, key);
        this.title = `Feed of ${key === undefined ? collection?.name ?? "everything" : `${collection.name} ${key}`}`;
        this.choice = key === undefined ? links.feed(collection) : links.aggregateFeed(collection, key);
        this.copy = new Copy(this.paths);
        this.copy.listen({ after: (message) => this.#after(message), changed: () => this.#changed() });
        this.#build(collection, key);
        this.refresh = () => draw(this.#render);
    }

    close() {
        this.copy.close();
    }

    #build(collection, key) {
        this.messages = new Changes({ label: "Messages" });
        this.pause = button("Pause", () => this.#togglePause(), { "aria-pressed": "false" });
        this.cut = button("Cut the connection", () => this.#cut());
        this.quiet = element("p", { class: "empty" }, "No message yet. The copy has been loaded, and the stream waits for the next change. Write something, or come back from an old revision to see how a consumer catches up.");
        const list = section("Messages", {
            remark: `GET ${this.paths.events}`, className: "stream",
            actions: [this.pause, copyButton("Copy JSON", () => this.messages.json())],
        }, this.quiet, this.messages.element);
        this.status = definitions(["connection", "last id", "messages", "revision"]);
        this.mark = element("p", { class: "mark", role: "status", "aria-label": "Comparison with GET" });
        this.byHand = snippets(() => ({ path: this.paths.events, isStream: true, statePath: this.paths.state, headers: { "Last-Event-ID": this.copy.id } }));
        const copy = section("The copy", { actions: [button("Compare with GET", () => this.#compare()), copyButton("Copy JSON", () => JSON.stringify(this.copy.document, null, 2))] },
            this.status.element, this.mark, this.#returns(), this.byHand.element);
        this.element = element("div", {}, this.#chooser(collection, key), element("div", { class: "beside" }, list, copy));
    }

    #chooser(collection, key) {
        const choices = [["everything", links.feed()], ...this.page.index.collections.map((one) => [one.name, links.feed(one)])];
        if (key !== undefined) choices.push([`${collection.name} ${key}`, this.choice]);
        const options = choices.map(([name, link]) => element("option", { value: link, selected: link === this.choice }, name));
        const select = element("select", { id: "feed-choice", onchange: () => { location.hash = select.value; } }, options);
        return element("div", { class: "tools page" }, element("label", { for: "feed-choice" }, "Feed of"), select);
    }

    #returns() {
        this.revision = element("input", { type: "text", inputmode: "numeric", "aria-label": "Revision to come back from", class: "mono short" });
        const epoch = () => this.page.copy.epoch;
        const from = () => {
            const wanted = this.revision.value.replaceAll(",", "").trim() || "1";
            this.#comeBack(`${epoch()}.${wanted}`, `from revision ${wanted}`);
        };
        this.revision.addEventListener("keydown", (event) => event.key === "Enter" && from());
        return element("div", { class: "returns", role: "group", "aria-label": "Cut and come back" },
            element("h3", {}, "Cut the connection and come back"),
            element("div", { class: "row" }, this.cut, button("With the last id", () => this.#comeBack(this.copy.id, "with the last id"), { class: "main" })),
            element("div", { class: "row" }, button("From revision", from), this.revision),
            element("div", { class: "row" },
                button("With nonsense", () => this.#comeBack("nonsense", "with nonsense")),
                button("From another epoch", () => this.#comeBack(`${FOREIGN_EPOCH}.${Math.max(1, this.copy.revision)}`, "from another epoch")),
                button("With nothing", () => this.#comeBack("", "with nothing"))));
    }

    #after(message) {
        if (this.#return !== undefined) this.#watchReturn(message);
        const entry = { label: revisionLabel(message.revision), id: message.id, text: message.data, time: message.time };
        if (message.id.includes(".partial")) entry.label += " partial";
        this.#add(entry);
    }

    #add(entry) {
        if (this.#isPaused) this.#hidden.push(entry);
        else this.messages.add(entry);
        if (this.#hidden.length > 1000) this.#hidden.shift();
        draw(this.#render);
    }

    #note(text, state = {}) {
        this.#add({ label: "", text, time: Date.now(), isNote: true, ...state });
    }

    #togglePause() {
        this.#isPaused = !this.#isPaused;
        if (!this.#isPaused) for (const entry of this.#hidden.splice(0)) this.messages.add(entry);
        this.pause.setAttribute("aria-pressed", String(this.#isPaused));
        draw(this.#render);
    }

    #cut() {
        if (this.copy.connection === "cut") return;
        this.copy.cut();
        this.#note(`The connection was cut after ${this.copy.id}. What is written now is missed, until you come back.`);
    }

    #comeBack(cursor, words) {
        this.#comparison = { text: "on the way …", state: "" };
        this.#return = { cursor, words, since: performance.now(), messages: 0, kind: "the log" };
        this.#note(`You come back ${words}${cursor === "" ? "" : `: ${cursor}`}`);
        this.copy.comeBack(cursor);
    }

    /** Finds out how the service brings the copy up to date. */
    #watchReturn(message) {
        this.#return.messages += 1;
        if (message.id.endsWith(".0.partial")) this.#return.kind = "a reset";
        else if (this.#return.kind === "the log" && message.id.includes(".partial")) this.#return.kind = "a catch-up";
    }

    #changed() {
        if (this.copy.isOpen && this.#return !== undefined && !this.#return.isOpen) {
            this.#return.isOpen = true;
            this.#arrive();
        } else if (this.copy.isOpen && this.#comparison.state === "" && this.#return === undefined) {
            this.#compare();
        }
        if (this.copy.connection === "waiting") this.#note(`Not connected: ${this.copy.trouble}. Trying again …`, { isBad: true });
        draw(this.#render);
    }

    /** Waits until the copy is up to date again, and says how it came to be. */
    async #arrive() {
        const comparison = await this.#compare();
        const back = this.#return;
        this.#return = undefined;
        if (comparison === undefined || back === undefined) return;
        const time = `${Math.max(1, Math.round(performance.now() - back.since))} ms`;
        const how = back.messages === 0 ? "Nothing was missing" : `You were brought up to date by ${back.kind}: ${count(back.messages, "message")}`;
        this.#note(`${how}, ${time}. ${comparison}`, { isGood: this.#comparison.state === "good", isBad: this.#comparison.state === "bad" });
    }

    /** Really compares: the state is fetched again, and both are compared member by member at the same revision. */
    async #compare() {
        try {
            const { isEqual, revision } = await this.copy.compare();
            this.#comparison = isEqual
                ? { text: `The copy equals GET ${this.paths.state} at revision ${grouped(revision)}.`, state: "good" }
                : { text: `The copy differs from GET ${this.paths.state} at revision ${grouped(revision)}.`, state: "bad" };
        } catch (error) {
            this.#comparison = { text: `Not compared: ${error.message}.`, state: "bad" };
        }
        draw(this.#render);
        return this.#comparison.text;
    }

    render() {
        const { copy } = this;
        this.status.set("connection", copy.isOpen ? "open" : copy.connection);
        this.status.set("last id", copy.id || "none");
        this.status.set("messages", grouped(copy.received));
        this.status.set("revision", copy.id === "" ? "–" : `${grouped(copy.revision)}, ${copy.isExact ? "exact" : "on the way"}`);
        setText(this.mark, this.#comparison.text);
        this.mark.className = `mark ${this.#comparison.state}`;
        setText(this.pause, this.#isPaused ? `Go on, ${grouped(this.#hidden.length)} waiting` : "Pause");
        this.cut.disabled = copy.connection === "cut";
        if (this.revision.value === "" && copy.revision > 0 && document.activeElement !== this.revision) this.revision.value = String(Math.max(1, copy.revision - 10));
        this.quiet.hidden = this.messages.entries.length > 0;
        this.messages.render();
        const now = Date.now();
        if (now - this.#refreshedAt > 1000) {
            this.#refreshedAt = now;
            this.byHand.refresh();
        }
    }

    #refreshedAt = 0;
}

function pathsOf(index, collection, key) {
    if (collection === undefined) return index.everything;
    if (key === undefined) return { state: collection.state, events: collection.events };
    const path = `${collection.state}/${segment(key)}`;
    return { state: path, events: `${path}/events` };
}

/** A list of names and values that change. */
export function definitions(names) {
    const values = new Map(names.map((name) => [name, element("dd", { class: "mono" })]));
    const list = element("dl", {}, names.map((name) => element("div", {}, element("dt", {}, name), values.get(name))));
    return { element: list, set: (name, text) => setText(values.get(name), text) };
}
