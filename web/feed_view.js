/** A feed, message by message: pause it, cut it, and come back with any cursor. */

import { button, copyButton, copyJson, Definitions, element, labelled, section, setText } from "./dom.js";
import { draw } from "./frame.js";
import { Copy } from "./copy.js";
import { Changes } from "./changes.js";
import { snippets } from "./snippets.js";
import { segment } from "./api.js";
import { links } from "./router.js";
import { count, grouped } from "./words.js";

export class FeedView {
    #isPaused = false;
    #hidden = 0;
    /** How the copy came back, until it is up to date. */
    #return = undefined;
    #comparison = { text: "not compared yet", state: "" };

    constructor({ page, collection, key }) {
        const subject = collection === undefined ? "everything" : key === undefined ? collection.name : `${collection.name} ${key}`;
        const path = key === undefined ? undefined : `${collection.state}/${segment(key)}`;
        this.page = page;
        this.paths = path === undefined ? collection ?? page.index.everything : { state: path, events: `${path}/events` };
        this.title = `Feed of ${subject}`;
        this.copy = new Copy(this.paths);
        this.copy.listen({ after: (message) => this.#after(message), changed: () => this.#changed() });
        this.#build(subject);
    }

    close() {
        this.copy.close();
    }

    #build(subject) {
        const { copy, paths } = this;
        this.messages = new Changes({ label: "Messages" });
        this.pause = button("Pause", () => this.#togglePause(), { "aria-pressed": "false" });
        this.cut = button("Cut the connection", () => this.#cut());
        this.quiet = element("p", { class: "empty" }, "No message yet: the stream waits for the next change. Write something, or come back from an old revision.");
        this.status = new Definitions();
        this.mark = element("p", { role: "status", "aria-label": "Comparison with GET" });
        this.byHand = snippets(() => ({ path: paths.events, isFeed: true, lastId: copy.id }));
        this.element = element("div", {}, this.#chooser(subject), element("div", { class: "beside" },
            section("Messages", { remark: paths.events, actions: [this.pause, copyButton("Copy JSON", () => this.messages.json())] }, this.quiet, this.messages.element),
            section("The copy", { actions: [button("Compare with GET", () => this.#compare()), copyJson(() => copy.document)] },
                this.status.element, this.mark, this.#returns(), this.byHand.element)));
    }

    #chooser(subject) {
        const choices = new Map([["everything", links.feed()], ...this.page.index.collections.map((one) => [one.name, links.feed(one)])]);
        if (!choices.has(subject)) choices.set(subject, location.hash);
        const options = [...choices].map(([name, link]) => element("option", { value: link, selected: name === subject }, name));
        const select = element("select", { onchange: () => { location.hash = select.value; } }, options);
        return element("div", { class: "tools page" }, labelled("Feed of", select));
    }

    #returns() {
        const { copy } = this;
        const back = (label, cursor, attributes) => button(label, () => this.#comeBack(label.toLowerCase(), cursor()), attributes);
        const from = () => `${this.page.copy.epoch}.${this.revision.value.replaceAll(",", "").trim() || 1}`;
        this.revision = element("input", { inputmode: "numeric", "aria-label": "Revision to come back from", class: "mono short" });
        this.returns = element("fieldset", { class: "returns" }, element("legend", {}, "Cut the connection and come back"),
            element("div", { class: "row" }, this.cut, back("With the last id", () => copy.id, { class: "main" })),
            element("div", { class: "row" }, back("From revision", from), this.revision),
            element("div", { class: "row" }, back("With nonsense", () => "nonsense"), back("From another epoch", () => `another-epoch.${copy.revision}`), back("With nothing", () => "")));
        return this.returns;
    }

    #after(message) {
        const { id, data } = message;
        if (this.#return !== undefined) {
            this.#return.messages += 1;
            if (id.endsWith(".0.partial")) this.#return.kind = "a reset";
            else if (this.#return.kind === "the log" && id.includes(".partial")) this.#return.kind = "a catch-up";
        }
        this.#add({ ...message, text: data });
    }

    #add(entry) {
        if (this.#isPaused) this.#hidden += 1;
        (this.#isPaused ? this.paused : this.messages).add(entry);
        draw(this);
    }

    #note(text, note = "") {
        this.#add({ text, note, time: Date.now() });
    }

    #togglePause() {
        this.#isPaused = !this.#isPaused;
        // What comes now waits in a list of its own.
        if (this.#isPaused) [this.paused, this.#hidden] = [new Changes({}), 0];
        else for (const entry of this.paused.entries.toReversed()) this.messages.add(entry);
        this.pause.setAttribute("aria-pressed", String(this.#isPaused));
        draw(this);
    }

    #cut() {
        this.copy.cut();
        this.#note(`The connection was cut after ${this.copy.id}. What is written now is missed, until you come back.`);
    }

    #comeBack(words, cursor) {
        this.#comparison = { text: "on the way …", state: "" };
        this.#return = { since: performance.now(), messages: 0, kind: "the log", isOpen: false };
        this.#note(`You come back ${words}${cursor === "" ? "" : `: ${cursor}`}`);
        this.copy.comeBack(cursor);
    }

    #changed() {
        const back = this.#return;
        if (this.copy.connection === "waiting") this.#note(`Not connected: ${this.copy.trouble}. Trying again …`, "bad");
        if (this.copy.isOpen && back?.isOpen === false) {
            back.isOpen = true;
            this.#arrive(back);
        } else if (this.copy.isOpen && back === undefined && this.#comparison.state === "") {
            this.#compare();
        }
        draw(this);
    }

    async #arrive(back) {
        await this.#compare();
        if (this.#return !== back) return;
        this.#return = undefined;
        const how = back.messages === 0 ? "Nothing was missing" : `You were brought up to date by ${back.kind}: ${count(back.messages, "message")}`;
        this.#note(`${how}, ${Math.ceil(performance.now() - back.since)} ms. ${this.#comparison.text}`, this.#comparison.state);
    }

    async #compare() {
        try {
            const { isEqual, revision } = await this.copy.compare();
            const words = `GET ${this.paths.state} at revision ${grouped(revision)}.`;
            this.#comparison = isEqual ? { text: `The copy equals ${words}`, state: "good" } : { text: `The copy differs from ${words}`, state: "bad" };
        } catch (error) {
            this.#comparison = { text: `Not compared: ${error.message}.`, state: "bad" };
        }
        draw(this);
    }

    render() {
        const { copy } = this;
        this.status.set("connection", copy.connection);
        this.status.set("last id", copy.id || "none");
        this.status.set("messages", grouped(copy.received));
        this.status.set("revision", `${grouped(copy.revision)}, ${copy.isExact ? "exact" : copy.isWhole ? "on the way" : "something is missing"}`);
        setText(this.mark, this.#comparison.text);
        this.mark.className = `mark ${this.#comparison.state}`;
        setText(this.pause, this.#isPaused ? `Go on, ${grouped(this.#hidden)} waiting` : "Pause");
        this.cut.disabled = copy.connection === "cut";
        this.returns.disabled = copy.document === undefined;
        if (this.revision.value === "" && copy.revision > 0 && document.activeElement !== this.revision) this.revision.value = Math.max(1, copy.revision - 10);
        this.quiet.hidden = this.messages.entries.length > 0;
        this.messages.render();
        this.byHand.refreshSometimes();
    }
}
