/**
 * A copy of a part of the document: loaded once, then kept exact by the messages of a feed.
 *
 * It is a consumer like any other. It differs from `follow` of follow.js in what the page shows of it: every message as it
 * arrived, and a connection that can be cut and resumed with any cursor. The state is changed in place.
 */

import { messages } from "/follow.js";
import { applyPatch, isEqual } from "./patch.js";
import { request } from "./api.js";

/** How long to wait before the next attempt, in milliseconds; each failed attempt doubles it. */
const FIRST_DELAY = 500;
const LONGEST_DELAY = 5000;

/** A clock that jumps by more than this, in milliseconds, belongs to a computer that slept: its connections are dead. */
const SLEEP = 20000;

/** How long a comparison waits for the messages up to the revision of the state, in milliseconds. */
const COMPARISON_TIME = 15000;

/**
 * A message as it arrived.
 * @typedef {{ number: number, id: string, data: string, patch: any, revision?: number, isExact: boolean, time: number }} Message
 */

export class Copy {
    /** The state: `undefined` before it is loaded. */
    document = undefined;
    /** The last id, with which the copy resumes. */
    id = "";
    /** Whether the copy is the state at `revision`, and not on the way to another one. */
    isExact = false;
    /** @type {"loading" | "connecting" | "open" | "waiting" | "cut"} */
    connection = "loading";
    /** Why the copy is not connected, in the words of the service. */
    trouble = "";
    /** When the last message came. */
    lastTime = 0;

    /** The revision up to which the state has the changes, although the last id may be older. */
    #ahead = 0;
    #received = 0;
    #listeners = new Set();
    #held = null;
    #arrived = () => {};
    #delay = FIRST_DELAY;
    #wake = () => {};
    #controller = new AbortController();
    #isClosed = false;
    #lastTick = Date.now();
    #ticks = setInterval(() => this.#tick(), 5000);

    /** @param {{ state: string, events: string }} paths */
    constructor(paths) {
        this.paths = paths;
        this.#live();
    }

    get epoch() {
        return this.id.split(".")[0];
    }

    /** The revision of the last id. */
    get revision() {
        return revisionOf(this.id);
    }

    /** How many messages arrived. */
    get received() {
        return this.#received;
    }

    get isOpen() {
        return this.connection === "open";
    }

    /**
     * Calls `before` with each message before it is applied, `after` once it is, and `changed` when the connection changes.
     * @param {{ before?: (message: Message) => void, after?: (message: Message) => void, changed?: () => void }} listener
     * @returns {() => void} ends this
     */
    listen(listener) {
        this.#listeners.add(listener);
        return () => this.#listeners.delete(listener);
    }

    /** Cuts the connection, and stays away until `comeBack`. */
    cut() {
        this.#set("cut", "");
        this.#controller.abort();
    }

    /** Connects with a cursor, whatever it is. */
    comeBack(cursor) {
        // From an older cursor, what the copy has already arrives again: it is exact again after that.
        this.#ahead = Math.max(this.#ahead, this.revision);
        if (cursor === "") this.#forget();
        this.isExact = this.isExact && cursor.split(".")[0] === this.epoch && revisionOf(cursor) >= this.#ahead;
        this.id = cursor;
        this.#delay = FIRST_DELAY;
        this.#set("connecting", "");
        this.#controller.abort();
        this.#wake();
    }

    /** Drops the state: who comes back with nothing has nothing. */
    #forget() {
        this.document = null;
        this.isExact = false;
        this.#ahead = 0;
    }

    close() {
        this.#isClosed = true;
        clearInterval(this.#ticks);
        this.#listeners.clear();
        this.#controller.abort();
        this.#wake();
    }

    async #live() {
        while (!this.#isClosed) {
            this.#controller = new AbortController();
            try {
                if (this.document === undefined) await this.#load();
                await this.#follow();
                this.trouble = "the connection was cut";
            } catch (error) {
                this.trouble = error.message;
            }
            if (!this.#isClosed) await this.#pause();
        }
    }

    async #load() {
        this.#set("loading", "");
        const answer = await request(this.paths.state, { signal: this.#controller.signal });
        if (!answer.ok && answer.status !== 404) throw new Error(answer.problem.detail);
        this.document = answer.ok ? JSON.parse(answer.text) : null;
        this.id = `${answer.headers.get("X-Epoch")}.${answer.headers.get("X-Revision")}`;
        this.isExact = true;
    }

    async #follow() {
        this.#set("connecting", this.trouble);
        const { signal } = this.#controller;
        const opened = async (...request) => {
            const response = await fetch(...request);
            if (response.ok && !signal.aborted) this.#open();
            return response;
        };
        for await (const message of messages(this.paths.events, { lastEventId: this.id, signal, fetch: opened })) {
            if (signal.aborted) return;
            this.#receive(message);
        }
    }

    #open() {
        this.#delay = FIRST_DELAY;
        // With an id that the service gave, the copy has everything up to it; what is missing arrives as messages.
        this.#set("open", "");
    }

    /** Waits before the next attempt; after a cut, until `comeBack`. */
    async #pause() {
        const isCut = this.connection === "cut";
        const isResumed = this.connection === "connecting" && this.#controller.signal.aborted;
        if (isResumed) return;
        if (!isCut) this.#set("waiting", this.trouble);
        await new Promise((resolve) => {
            this.#wake = resolve;
            if (!isCut) setTimeout(() => this.connection === "waiting" && resolve(), this.#delay);
        });
        this.#delay = Math.min(this.#delay * 2, LONGEST_DELAY);
    }

    #tick() {
        const now = Date.now();
        const slept = now - this.#lastTick > SLEEP;
        this.#lastTick = now;
        if (slept && this.connection !== "cut") this.#controller.abort();
    }

    #set(connection, trouble) {
        this.connection = connection;
        this.trouble = trouble;
        for (const { changed } of this.#listeners) changed?.();
    }

    #receive({ id, data }) {
        this.#received += 1;
        const hasId = Boolean(id);
        const isExact = hasId && !id.includes(".partial");
        const revision = hasId ? revisionOf(id) : undefined;
        const message = { number: this.#received, id: id ?? "", data, patch: JSON.parse(data), revision, isExact, time: Date.now() };
        if (this.#held === null) {
            this.#apply(message);
        } else {
            this.#held.push(message);
            this.#arrived();
        }
    }

    #apply(message) {
        for (const { before } of this.#listeners) before?.(message);
        this.document = applyPatch(this.document, message.patch);
        if (message.id !== "") this.id = message.id;
        if (message.patch === null) this.#ahead = 0;
        this.isExact = message.isExact && this.revision >= this.#ahead;
        this.lastTime = message.time;
        for (const { after } of this.#listeners) after?.(message);
    }

    /**
     * Fetches the state again and compares it with the copy, at the same revision: messages wait until the revision of the
     * state is known, those up to it are applied, then both are compared, then the others are applied.
     * @returns {Promise<{ isEqual: boolean, revision: number }>}
     */
    async compare() {
        if (this.#held !== null) throw new Error("a comparison is running");
        this.#held = [];
        const deadline = Date.now() + COMPARISON_TIME;
        try {
            const answer = await request(this.paths.state);
            if (!answer.ok && answer.status !== 404) throw new Error(answer.problem.detail);
            const revision = Number(answer.headers.get("X-Revision"));
            const tag = /\.(\d+)/.exec(answer.headers.get("ETag") ?? "");
            await this.#reach(tag === null ? 0 : Number(tag[1]), revision, deadline);
            const state = answer.ok ? JSON.parse(answer.text) : null;
            return { isEqual: isEqual(this.document ?? null, state), revision };
        } finally {
            const held = this.#held;
            this.#held = null;
            for (const message of held) this.#apply(message);
        }
    }

    /** Applies the messages that wait, until the copy has the last change of the state, and none after its revision. */
    async #reach(lastChange, revision, deadline) {
        for (;;) {
            while (this.#held.length > 0 && !(this.#held[0].revision > revision)) this.#apply(this.#held.shift());
            if (this.isExact && this.revision >= lastChange) return;
            if (Date.now() > deadline) throw new Error("the messages up to the revision of the state did not arrive in time");
            await new Promise((resolve) => {
                this.#arrived = resolve;
                setTimeout(resolve, 500);
            });
        }
    }
}

/** The revision in an id, `<epoch>.<revision>`. */
export function revisionOf(id) {
    return Number(id.split(".")[1] ?? 0);
}
