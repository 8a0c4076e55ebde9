// The law, from Node: whatever happens, the copy of a feed is the state at its revision, and at the end that of now.

import assert from "node:assert/strict";
import { test } from "node:test";
import { follow } from "../../../web/follow.js";
import { eventually, Proxy, random, Service } from "./service.mjs";

const CASES = Number(process.env.DUALITY_JS_CASES ?? 6);
const STEPS = 40;

/** What each path shows of the whole document. */
const PATHS = {
    "/aggregates": (document) => document,
    "/events?collection=locations": ({ locations }) => ({ locations }),
    "/persons": ({ persons }) => persons,
    "/location-events": ({ locations }) => locations,
    "/persons?key=1&key=3": ({ persons }) => pick(persons, "1", "3"),
    "/persons/2/events": ({ persons }) => persons["2"] ?? null,
};

const pick = (object, ...keys) => Object.fromEntries(Object.entries(object).filter(([key]) => keys.includes(key)));

/** The feeds, the service, and all states that ever were. */
class Case {
    /** For each revision its documents: after a restored backup, there is another one of the same number. */
    documents = new Map();
    wrong = [];

    constructor(service, proxy, dice) {
        Object.assign(this, { service, proxy, dice });
    }

    async begin() {
        await this.record();
        this.feeds = Object.keys(PATHS).map((path) => this.follow(path));
    }

    follow(path) {
        const store = { saved: undefined, load: () => store.saved, save: (copy) => { store.saved = structuredClone(copy); } };
        const compare = (state, change) => this.compare(path, state, change);
        return { path, store, feed: follow(this.proxy.url + path, compare, { store, silence: 3_000, onError: () => {} }) };
    }

    compare(path, state, { revision, exact }) {
        if (!exact) return;
        const expected = (this.documents.get(revision) ?? []).map(PATHS[path]);
        const isOneOfThem = expected.some((one) => isEqual(one, state));
        if (!isOneOfThem) this.wrong.push({ path, revision, state, expected });
    }

    async record() {
        const { state, revision } = await this.service.get("/aggregates");
        this.documents.set(revision, [...(this.documents.get(revision) ?? []), state]);
        return { state, revision };
    }

    async write() {
        const { dice, service } = this;
        const body = { name: `${dice(1000)}`, ...(dice(2) && { city: ["Rome", "Oslo", "Bonn"][dice(3)] }) };
        const persons = Object.keys((await service.get("/persons")).state);
        const person = persons[dice(persons.length)];
        // A feed must not see what is not recorded yet.
        this.proxy.hold();
        if (person && dice(3) === 0) await service.write("DELETE", `/persons/${person}`);
        else if (person && dice(2) === 0) await service.write("PATCH", `/persons/${person}`, { ...body, city: body.city ?? null });
        else await service.write("POST", "/persons", body);
        await this.record();
        this.proxy.release();
    }

    async step() {
        const { dice, service, proxy } = this;
        const kind = dice(20);
        if (kind === 0) {
            await service.kill();
            await service.start();
        } else if (kind === 1) {
            service.backUp();
        } else if (kind === 2) {
            await service.kill();
            service.restore();
            await service.start();
            await this.record();
        } else if (kind === 3) {
            proxy.cut();
        } else if (kind === 4) {
            proxy.cutAfter = () => dice(2_000);
            proxy.cut();
        } else if (kind === 5) {
            proxy.cutAfter = () => Infinity;
        } else if (kind === 6) {
            await this.startOver(this.feeds[dice(this.feeds.length)]);
        } else {
            await this.write();
        }
    }

    /** Closes a feed and goes on from its stored copy. */
    async startOver(one) {
        await one.feed.close();
        const { saved } = one.store;
        Object.assign(one, this.follow(one.path));
        one.store.saved = saved;
    }

    async end() {
        this.proxy.cutAfter = () => Infinity;
        this.proxy.cut();
        await this.write();
        const { state, revision } = await this.record();
        for (const { path, feed } of this.feeds) {
            const expected = PATHS[path](state);
            await eventually(`${path} is the state of now, ${JSON.stringify(expected)}`, () => {
                return feed.exact && feed.revision === revision && isEqual(feed.state, expected);
            });
        }
        assert.deepEqual(this.wrong, []);
    }

    async close() {
        for (const { feed } of this.feeds) await feed.close();
        this.proxy.close();
        await this.service.remove();
    }
}

function isEqual(one, other) {
    try {
        assert.deepEqual(one, other);
        return true;
    } catch {
        return false;
    }
}

const RETENTION = [
    [],
    ["--retention-events", "4", "--prune-interval", "20ms"],
    ["--retention", "0s", "--tombstone-retention", "0s", "--prune-interval", "20ms"],
];

for (let number = 1; number <= CASES; number += 1) {
    test(`a copy is exact, whatever is written, cut, killed, restored and pruned (${number})`, { timeout: 60_000 }, async () => {
        const service = await Service.start(...RETENTION[number % RETENTION.length]);
        const one = new Case(service, await Proxy.start(service), random(number));
        try {
            await one.begin();
            for (let step = 0; step < STEPS; step += 1) await one.step();
            await one.end();
        } finally {
            await one.close();
        }
    });
}
