// Tabs of one origin, as feeds of one process: Node has BroadcastChannel, and from version 24 on Web Locks.

import assert from "node:assert/strict";
import { after, afterEach, before, beforeEach, test } from "node:test";
import { eventually, Proxy, Service } from "./service.mjs";

/** Web Locks, as much of them as is needed: exclusive locks with a queue, a signal, and stealing. */
class Locks {
    #holders = new Map();
    #queues = new Map();

    request(name, { signal, steal }, callback) {
        return new Promise((resolve, reject) => {
            const entry = { callback, resolve, reject };
            if (steal) {
                this.#holders.get(name)?.reject(new DOMException("stolen", "AbortError"));
                return this.#grant(name, entry);
            }
            const queue = this.#queues.get(name) ?? [];
            this.#queues.set(name, queue);
            queue.push(entry);
            signal?.addEventListener("abort", () => {
                if (!queue.includes(entry)) return;
                queue.splice(queue.indexOf(entry), 1);
                reject(new DOMException("aborted", "AbortError"));
            });
            if (!this.#holders.has(name)) this.#next(name);
        });
    }

    async #grant(name, entry) {
        this.#holders.set(name, entry);
        const result = await entry.callback();
        entry.resolve(result);
        if (this.#holders.get(name) === entry) this.#next(name);
    }

    #next(name) {
        this.#holders.delete(name);
        const entry = this.#queues.get(name)?.shift();
        if (entry) this.#grant(name, entry);
    }
}

const locks = new Locks();
Object.defineProperty(globalThis, "navigator", { value: { locks }, configurable: true });
const { follow } = await import("../../../web/follow.js");

let service, proxy, feeds;

before(async () => {
    service = await Service.start();
});
after(() => service.remove());
beforeEach(async () => {
    proxy = await Proxy.start(service);
    feeds = [];
});
afterEach(async () => {
    for (const feed of feeds) await feed.close();
    proxy.close();
});

function start(options = {}) {
    const feed = follow(`${proxy.url}/persons`, undefined, { onError: () => {}, ...options });
    feeds.push(feed);
    return feed;
}

async function areExact(...feeds) {
    const { state, revision } = await service.get("/persons");
    for (const feed of feeds) {
        await eventually(`a copy has revision ${revision}`, () => feed.revision === revision);
        assert.deepEqual(feed.state, state);
        assert.equal(feed.exact, true);
    }
}

const create = (name) => service.write("POST", "/persons", { name });
const counts = () => [proxy.count("/persons"), proxy.count("/events/persons")];

test("tabs share one load and one stream", async () => {
    const tabs = [start(), start(), start()];
    await areExact(...tabs);
    await create("Ann");
    await areExact(...tabs);
    tabs.push(start());
    await areExact(...tabs);
    await create("Bob");
    await areExact(...tabs);
    assert.deepEqual(counts(), [1, 1]);
});

test("the next tab goes on without a loss and without a load when the first one is closed", async () => {
    const [first, ...others] = [start(), start(), start()];
    await areExact(first, ...others);
    await first.close();
    await create("Cid");
    await areExact(...others);
    assert.deepEqual(counts(), [1, 2]);
    await others[0].close();
    await create("Dan");
    await areExact(others[1]);
    assert.deepEqual(counts(), [1, 3]);
    assert.notDeepEqual(first.state, others[1].state);
});

test("a tab that is closed at any time leaves the others exact", async () => {
    let tabs = [start(), start(), start()];
    for (let round = 0; round < 20; round += 1) {
        const leaving = tabs.shift();
        tabs.push(start());
        const written = create(`${round}`);
        await leaving.close();
        await written;
        if (round % 5 === 0) proxy.cut();
    }
    await areExact(...tabs);
});

test("only the tab that has the connection stores the copy", async () => {
    const saved = [[], []];
    const [first, second] = saved.map((copies) => start({ store: { load: () => null, save: (copy) => copies.push(copy.id) } }));
    await areExact(first, second);
    await create("Eve");
    await areExact(first, second);
    await second.close();
    await first.close();
    assert.deepEqual(saved, [[first.id], []]);
});

test("a tab takes the place of one that has the connection and does not answer", { timeout: 30_000 }, async () => {
    let end;
    locks.request(`duality ${proxy.url}/events/persons`, {}, () => new Promise((resolve) => { end = resolve; })).catch(() => {});
    const tab = start();
    await areExact(tab);
    // The one that did not answer comes back: nothing changes.
    end();
    await create("Fay");
    await areExact(tab);
    assert.deepEqual(counts(), [1, 1]);
});

test("feeds with a fetch of their own share nothing unless they are told to", async () => {
    const own = (...request) => fetch(...request);
    const [one, other] = [start({ fetch: own }), start({ fetch: own })];
    await areExact(one, other);
    await create("Gus");
    await areExact(one, other);
    assert.deepEqual(counts(), [2, 2]);
});

test("feeds with a token share nothing unless they are told to", async () => {
    const tabs = [start({ token: "one" }), start({ token: "other" })];
    await areExact(...tabs);
    await eventually("each has a stream", () => counts().every((count) => count === 2));
});

test("a tab with another token takes the place of one whose token was refused", async () => {
    const errors = [];
    let isRefused = false;
    const refusing = async (url, options) => {
        const isOld = options.headers.Authorization === "Bearer old";
        return isRefused && isOld ? Response.json({ detail: "no longer valid" }, { status: 401 }) : fetch(url, options);
    };
    const options = { share: true, fetch: refusing, token: "old", onError: (error) => errors.push(error) };
    const tabs = [start(options), start(options)];
    await areExact(...tabs);
    await eventually("there is a stream", () => proxy.count("/events/persons") === 1);
    isRefused = true;
    proxy.cut();
    await eventually("the one with the connection is refused", () => errors.some(({ status }) => status === 401));
    await create("Fay");
    tabs[1].authorize("new");
    await areExact(...tabs);
});

test("where locks are refused, each tab has a connection", async (t) => {
    const { request } = locks;
    t.after(() => { locks.request = request; });
    locks.request = () => { throw new DOMException("not here", "SecurityError"); };
    const tabs = [start(), start()];
    await areExact(...tabs);
    await create("Hal");
    await areExact(...tabs);
    assert.deepEqual(counts(), [2, 2]);
});
