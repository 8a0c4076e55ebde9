/** The steps that led to an aggregate: its journal, or the changes of a document that the service retains. */

import { read, request } from "./api.js";
import { applyPatch } from "./patch.js";

/** The journal of an event-sourced aggregate; `?version=n` gives the states. */
export class JournalHistory {
    unit = "version";
    steps = [];
    #states = new Map();

    constructor(path) {
        this.path = path;
        this.remark = `${path}?version=n`;
    }

    statePath(index) {
        return `${this.path}?version=${this.steps[index]?.number ?? 1}`;
    }

    async load() {
        let next = `${this.path}/journal?limit=1000&after=${this.steps.at(-1)?.number ?? 0}`;
        while (next !== undefined) {
            const page = await read(next);
            this.steps.push(...page.events.map(({ version, kind, body, time }) => ({ number: version, title: kind, text: JSON.stringify(body), time })));
            next = page.next;
        }
    }

    async stateAt(index) {
        const path = this.statePath(index);
        if (!this.#states.has(path)) {
            const answer = await request(path);
            if (!answer.ok) throw new Error(answer.problem.detail);
            this.#states.set(path, answer.text);
        }
        return this.#states.get(path);
    }
}

const MOST_STEPS = 5000;

/** The retained changes of a document; the states follow from them. */
export class ChangeHistory {
    unit = "revision";
    steps = [];
    #states = [];
    /** In the middle of a catch-up, a state that never was. */
    #current = "null";
    #cursor = "";

    constructor(path) {
        this.path = path;
        this.remark = `${path}/events`;
    }

    statePath() {
        return this.path;
    }

    async load() {
        for (let count = 1000; count === 1000;) {
            const path = `${this.remark}?limit=1000&lastEventId=${encodeURIComponent(this.#cursor)}`;
            // Every change, if all are retained; otherwise what there is.
            const { events, cursor } = await read(`${path}&strict=true`).catch(() => read(path));
            count = events.length;
            this.#cursor = cursor;
            for (const { revision, patch } of events) this.#add(revision, patch);
            // A catch-up ends at the revision of the cursor.
            if (this.#current !== (this.#states.at(-1) ?? "null")) {
                this.#push(Number(cursor.split(".")[1]), this.#current === "null" ? "deleted" : "as it was", this.#current);
            }
            for (const list of [this.steps, this.#states]) list.splice(0, list.length - MOST_STEPS);
        }
    }

    #add(revision, patch) {
        const before = this.#current;
        this.#current = JSON.stringify(applyPatch(JSON.parse(before), patch));
        // Without a revision it is the beginning, a bookmark or a part of a catch-up.
        if (revision !== undefined) this.#push(revision, patch === null ? "deleted" : before === "null" ? "created" : "changed", JSON.stringify(patch));
    }

    #push(number, title, text) {
        this.#states.push(this.#current);
        this.steps.push({ number, title, text });
    }

    async stateAt(index) {
        return this.#states[index];
    }
}
