/** The steps that led to an aggregate: its journal, or the changes of a document that the service retains. */

import { read, request } from "./api.js";
import { applyPatch } from "./patch.js";

/** Steps that are loaded at most; an aggregate with more begins later. */
const MOST_STEPS = 20000;

/** The journal of an event-sourced aggregate; `?version=n` gives the states. */
export class JournalHistory {
    unit = "version";
    steps = [];
    #states = new Map();

    constructor(path) {
        this.path = path;
        this.remark = `GET ${path}?version=n`;
    }

    statePath(index) {
        return `${this.path}?version=${this.steps[index]?.number ?? 1}`;
    }

    /** Loads what has happened since the last time. */
    async load() {
        let next = `${this.path}/journal?limit=1000&after=${this.steps.at(-1)?.number ?? 0}`;
        while (next !== undefined && this.steps.length < MOST_STEPS) {
            const page = await read(next);
            this.steps.push(...page.events.map(({ version, kind, body, time }) => ({ number: version, title: kind, text: JSON.stringify(body), time })));
            next = page.next;
        }
    }

    /** A version never changes, so each is fetched once. */
    async stateAt(index) {
        const { number } = this.steps[index];
        if (!this.#states.has(number)) {
            const answer = await request(this.statePath(index));
            if (!answer.ok) throw new Error(answer.problem.detail);
            this.#states.set(number, answer.text);
        }
        return this.#states.get(number);
    }
}

/** The retained changes of a document; the states follow from them. */
export class ChangeHistory {
    unit = "revision";
    steps = [];
    #states = [];
    #cursor = "";

    constructor(path) {
        this.path = path;
        this.remark = `GET ${path}/events`;
    }

    statePath() {
        return this.path;
    }

    async load() {
        for (let count = 1000; count === 1000 && this.steps.length < MOST_STEPS;) {
            const page = await read(`${this.path}/events?limit=1000&lastEventId=${encodeURIComponent(this.#cursor)}`);
            count = page.events.length;
            this.#cursor = page.cursor;
            for (const { revision, patch } of page.events) this.#add(revision, patch);
        }
    }

    #add(revision, patch) {
        const before = this.#states.length === 0 ? null : JSON.parse(this.#states.at(-1));
        const state = JSON.stringify(applyPatch(before, patch) ?? null);
        // Without a revision it is the beginning, a bookmark or a catch-up, which ends at the revision of the cursor.
        const number = revision ?? Number(this.#cursor.split(".")[1]);
        if (revision === undefined && (state === "null" || state === this.#states.at(-1))) return;
        const title = patch === null ? "deleted" : before === null ? "created" : "changed";
        this.#states.push(state);
        this.steps.push({ number, title: revision === undefined ? "as it was" : title, text: JSON.stringify(patch) });
    }

    async stateAt(index) {
        return this.#states[index];
    }
}
