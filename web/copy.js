/**
 * A copy of a part of the document. Unlike `follow` of follow.js, it shows every message, can be cut and resumed with any cursor,
 * and changes the state in place.
 */

import { messages } from "/follow.js";
import { applyPatch, isEqual } from "./patch.js";
import { request } from "./api.js";
import { fetchWithToken } from "./token.js";

/** The time until the next attempt, in milliseconds, unless the service says it; each failure doubles it. */
const FIRST_DELAY = 500;
const LONGEST_DELAY = 5000;

/** How long a comparison waits for messages, in milliseconds. */
const COMPARISON_TIME = 15000;

export class Copy {
    /** The state: `undefined` before it is loaded. */
    document = undefined;
    id = "";
    /** Whether the copy is the state at `revision`. */
    isExact = false;
    /** Whether nothing is missing up to the last id. */
    isWhole = true;
    /** @type {"loading" | "connecting" | "open" | "waiting" | "cut"} */
    connection = "loading";
    trouble = "";
    lastTime = 0;
    received = 0;

    /** The revision up to which the state has the changes, although the last id may be older. */
    #ahead = 0;
    #listeners = new Set();
    /** The messages that wait for a comparison, if there is one. */
    #held = undefined;
    #arrived = () => {};
    /** Whether the next message may belong to a catch-up. */
    #mayCatchUp = true;
    #retry = FIRST_DELAY;
    #failures = 0;
    #wake = () => {};
    #controller = new AbortController();
    #isClosed = false;

    constructor(paths) {
        this.paths = paths;
        this.#live();
    }

    get epoch() {
        return this.id.split(".")[0];
    }

    get revision() {
        return revisionOf(this.id);
    }

    get isOpen() {
        return this.connection === "open";
    }

    /** Calls `before` and `after` with each message that is applied, and `changed` when the connection changes. Returns what ends this. */
    listen(listener) {
        this.#listeners.add(listener);
        return () => this.#listeners.delete(listener);
    }

    #call(name, message) {
        for (const listener of this.#listeners) listener[name]?.(message);
    }

    cut() {
        this.#set("cut");
        this.#controller.abort();
    }

    comeBack(cursor) {
        // From an older cursor, what the copy has arrives again, and makes it exact. After any other, something is missing.
        const revision = revisionOf(cursor);
        this.#ahead = Math.max(this.#ahead, this.revision);
        if (cursor !== this.id) this.isWhole &&= this.isExact && revision <= this.#ahead;
        this.isExact &&= this.isWhole && cursor.split(".")[0] === this.epoch && revision >= this.#ahead;
        // Without a cursor, one has nothing.
        if (cursor === "") [this.document, this.#ahead, this.isWhole] = [null, 0, true];
        this.id = cursor;
        this.#failures = 0;
        this.#set("connecting");
        this.#controller.abort();
        this.#wake();
    }

    close() {
        this.#isClosed = true;
        this.#listeners.clear();
        this.#controller.abort();
        this.#wake();
    }

    async #live() {
        while (!this.#isClosed) {
            this.#controller = new AbortController();
            const start = Date.now();
            let retryAfter = 0;
            try {
                if (this.document === undefined) await this.#load();
                await this.#follow();
                this.trouble = "the connection was cut";
            } catch (error) {
                this.trouble = error.message;
                retryAfter = error.retryAfter ?? 0;
            }
            if (Date.now() - start > LONGEST_DELAY) this.#failures = 0;
            if (!this.#isClosed) await this.#pause(retryAfter);
        }
    }

    async #load() {
        this.#set("loading");
        const answer = await request(this.paths.state);
        if (!answer.ok && answer.status !== 404) throw new Error(answer.problem.detail);
        this.document = answer.ok ? JSON.parse(answer.text) : null;
        this.id = `${answer.headers.get("X-Epoch")}.${answer.headers.get("X-Revision")}`;
        this.isExact = true;
    }

    async #follow() {
        this.#set("connecting");
        const { signal } = this.#controller;
        const opened = async (...request) => {
            const response = await fetchWithToken(...request);
            if (response.ok && !signal.aborted) {
                this.#mayCatchUp = true;
                this.#set("open");
            }
            return response;
        };
        const onRetry = (time) => { this.#retry = time; };
        for await (const message of messages(this.paths.events, { lastEventId: this.id, signal, fetch: opened, onRetry })) {
            if (signal.aborted) return;
            this.#failures = 0;
            this.#receive(message);
        }
    }

    /** Waits before the next attempt; after a cut, until `comeBack`. */
    async #pause(retryAfter) {
        if (this.connection === "connecting" && this.#controller.signal.aborted) return;
        const isCut = this.connection === "cut";
        if (!isCut) this.#set("waiting");
        const delay = Math.max(retryAfter, this.#retry, Math.min(this.#retry * 2 ** this.#failures, LONGEST_DELAY));
        this.#failures += 1;
        await new Promise((resolve) => {
            this.#wake = resolve;
            // Not all pages come back at once.
            if (!isCut) setTimeout(() => this.connection === "waiting" && resolve(), delay * (1 + Math.random() / 2));
        });
    }

    #set(connection) {
        this.connection = connection;
        this.#call("changed");
    }

    #receive({ id = "", data }) {
        this.received += 1;
        const isExact = id !== "" && !id.includes(".partial");
        const message = { id, data, patch: JSON.parse(data), revision: id === "" ? undefined : revisionOf(id), isExact, time: Date.now() };
        if (this.#held === undefined) return this.#apply(message);
        this.#held.push(message);
        this.#arrived();
    }

    #apply(message) {
        message.isChange = message.isExact && (!this.#mayCatchUp || message.revision === this.revision + 1);
        this.#mayCatchUp = !message.isExact;
        this.#call("before", message);
        this.document = applyPatch(this.document, message.patch);
        if (message.id !== "") this.id = message.id;
        if (message.patch === null) [this.#ahead, this.isWhole] = [0, true];
        this.isExact = message.isExact && this.isWhole && this.revision >= this.#ahead;
        this.lastTime = message.time;
        this.#call("after", message);
    }

    /**
     * Compares the copy with the state that is fetched, at the same revision: messages wait until that is known, and those after
     * it until both are compared.
     */
    async compare() {
        while (this.#held !== undefined) await new Promise((resolve) => setTimeout(resolve, 50));
        this.#held = [];
        try {
            const answer = await request(this.paths.state);
            if (!answer.ok && answer.status !== 404) throw new Error(answer.problem.detail);
            const revision = Number(answer.headers.get("X-Revision"));
            await this.#reach(Number(/\.(\d+)/.exec(answer.headers.get("ETag"))?.[1] ?? 0), revision);
            return { isEqual: isEqual(this.document, answer.ok ? JSON.parse(answer.text) : null), revision };
        } finally {
            const held = this.#held;
            this.#held = undefined;
            for (const message of held) this.#apply(message);
        }
    }

    /** Applies the messages that wait, until the copy has the last change of the state, and none after its revision. */
    async #reach(lastChange, revision) {
        const deadline = Date.now() + COMPARISON_TIME;
        for (;;) {
            while (this.#held.length > 0 && !(this.#held[0].revision > revision)) this.#apply(this.#held.shift());
            // What is missing never arrives.
            if ((this.isExact || !this.isWhole) && !this.id.includes(".partial") && this.revision >= lastChange) return;
            if (Date.now() > deadline) throw new Error("the messages did not arrive in time");
            await new Promise((resolve) => {
                this.#arrived = resolve;
                setTimeout(resolve, 500);
            });
        }
    }
}

function revisionOf(id) {
    return Number(id.split(".")[1] ?? 0);
}
