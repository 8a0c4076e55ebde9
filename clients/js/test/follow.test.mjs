// What a feed survives, with the real service behind a proxy.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { after, before, beforeEach, afterEach, test } from "node:test";
import { promisify } from "node:util";
import { follow, messages } from "../../../web/follow.js";
import { eventually, Proxy, Service } from "./service.mjs";

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

/** A feed through the proxy, with what it reports. */
function start(path, options = {}, onChange = undefined) {
    const errors = [];
    const feed = follow(proxy.url + path, onChange, { onError: (error) => errors.push(error), ...options });
    feeds.push(feed);
    return Object.assign(Object.create(feed), { errors, feed });
}

async function isExact(feed, path = "/persons") {
    const { state, revision } = await service.get(path);
    await eventually(`the copy of ${path} has revision ${revision}`, () => feed.revision >= revision);
    assert.deepEqual(feed.state, state);
    assert.equal(feed.exact, true);
}

const create = (name = "Ann") => service.write("POST", "/persons", { name });

/** A store in memory, whose functions may be replaced. */
function memory(saved = undefined) {
    const store = { saved, load: () => store.saved, save: (copy) => { store.saved = structuredClone(copy); } };
    return store;
}

test("a state is loaded once and followed from its revision", async () => {
    await create();
    const patches = [];
    const feed = start("/persons", {}, (state, { patch }) => patches.push(patch));
    await isExact(feed);
    const { location } = await create("Bob");
    await isExact(feed);
    assert.deepEqual(patches, [undefined, { [location.split("/")[2]]: { name: "Bob" } }]);
    assert.equal(proxy.count("/persons"), 1);
    assert.equal(proxy.count("/events/persons"), 1);
});

test("a copy of a service that has nothing yet is exact, also after the empty state", async () => {
    const fresh = await Service.start();
    const seen = [];
    const feed = follow(`http://127.0.0.1:${fresh.port}/persons`, (state, { exact }) => seen.push({ state, exact }));
    try {
        await eventually("it is loaded", () => feed.exact);
        await fresh.write("POST", "/carts");
        await eventually("the bookmark comes", () => feed.revision > 0);
        assert.deepEqual(seen, [{ state: {}, exact: true }, { state: {}, exact: true }]);
    } finally {
        await feed.close();
        await fresh.remove();
    }
});

test("a feed can be named by its state or by its events, at each level", async () => {
    const { location } = await create();
    const paths = ["/aggregates", "/events", "/persons", "/person-events", "/events/persons", location, `${location}/events`];
    const states = ["/aggregates", "/aggregates", "/persons", "/persons", "/persons", location, location];
    const all = paths.map((path) => start(path));
    for (const [index, feed] of all.entries()) await isExact(feed, states[index]);
    await service.write("PATCH", location, { city: "Rome" });
    for (const [index, feed] of all.entries()) await isExact(feed, states[index]);
});

test("an aggregate that does not exist is null until it does", async () => {
    const { location } = await create();
    const next = `/persons/${Number(location.split("/")[2]) + 1}`;
    const feed = start(next);
    await eventually("the aggregate is not there", () => feed.state === null && feed.exact);
    await create("Bob");
    await isExact(feed, next);
    await service.write("DELETE", next);
    await eventually("the aggregate is not there any more", () => feed.state === null && feed.exact);
});

test("what is neither a state nor a feed is an error at once", () => {
    assert.throws(() => follow("http://localhost:3000/a/b/c/d"), /neither a state nor a feed/);
    assert.throws(() => follow("http://localhost:3000/"), /neither a state nor a feed/);
});

test("the index of the service says where the state of a feed is", async () => {
    const requests = [];
    const index = { collections: [{ name: "persons", state: "/persons", events: "/person-events" }] };
    const fetchWithIndex = async (url, options) => {
        const { pathname } = new URL(url);
        requests.push(pathname);
        return pathname === "/" ? Response.json(index) : fetch(url, options);
    };
    const feed = start("/person-events", { fetch: fetchWithIndex });
    await isExact(feed);
    await eventually("the stream is open", () => requests.length === 3);
    assert.deepEqual(requests, ["/", "/persons", "/person-events"]);
});

test("a feed starts from its stream if something else answers in place of the index", async () => {
    const answers = [
        () => new Response("<h1>Another app</h1>", { headers: { "Content-Type": "text/html" } }),
        () => Response.json({ title: "sign in" }, { status: 401 }),
        () => new Response("no", { status: 403 }),
        () => Response.json({ name: "another app" }),
        () => Response.json(null),
        () => new Response("{", { headers: { "Content-Type": "application/json" } }),
    ];
    for (const answer of answers) {
        const requests = [];
        const withAnother = async (url, options) => {
            const { pathname } = new URL(url);
            requests.push(pathname);
            return pathname === "/" ? answer() : fetch(url, options);
        };
        const feed = start("/person-events", { fetch: withAnother });
        await isExact(feed);
        assert.deepEqual(requests, ["/", "/person-events"], String(answer));
        assert.deepEqual(feed.errors, []);
    }
});

test("an index that is out of order for a while is asked again", async () => {
    const requests = [];
    const brieflyBroken = async (url, options) => {
        requests.push(new URL(url).pathname);
        return requests.length === 1 ? new Response("no", { status: 502 }) : fetch(url, options);
    };
    const feed = start("/person-events", { fetch: brieflyBroken });
    await isExact(feed);
    assert.deepEqual(requests.slice(0, 3), ["/", "/", "/persons"]);
    assert.deepEqual(feed.errors.map(({ status }) => status), [502]);
});

test("behind a proxy, the service may have a path of its own", async () => {
    const requests = [];
    const rewriting = (url, options) => {
        requests.push(new URL(url).pathname);
        return fetch(String(url).replace("/shop/", "/"), options);
    };
    const feed = start("/shop/events", { base: `${proxy.url}/shop/`, fetch: rewriting });
    await isExact(feed, "/aggregates");
    assert.deepEqual([...new Set(requests)], ["/shop/aggregates", "/shop/events"]);
});

test("a feed comes back after a 502", async () => {
    const feed = start("/persons");
    await isExact(feed);
    proxy.mode = "refuse";
    proxy.cut();
    await eventually("a 502 is reported", () => feed.errors.some(({ status }) => status === 502));
    await create("after a 502");
    proxy.mode = "forward";
    await isExact(feed);
    assert.equal(proxy.count("/persons"), 1, "it needs no second load");
});

test("a feed begins although the service is not there yet", async () => {
    proxy.mode = "refuse";
    const feed = start("/persons");
    await eventually("a 502 is reported", () => feed.errors.length > 0);
    assert.equal(feed.state, undefined);
    proxy.mode = "forward";
    await isExact(feed);
});

test("a feed comes back after a connection that goes silent, as in a computer that slept", async () => {
    const feed = start("/persons", { silence: 1_000 });
    await isExact(feed);
    proxy.mode = "silent";
    await create("while nobody listened");
    await eventually("the silence is reported", () => feed.errors.some(({ message }) => message.includes("nothing came")));
    proxy.mode = "forward";
    await isExact(feed);
});

test("a page of something else in place of the stream or of the state is no answer", async () => {
    let isPortal = true;
    const page = () => new Response("<h1>Sign in</h1>", { headers: { "Content-Type": "text/html" } });
    const feed = start("/persons", { fetch: async (...request) => (isPortal ? page() : fetch(...request)) });
    await eventually("it is reported", () => feed.errors.length > 0);
    assert.match(feed.errors[0].message, /text\/html instead of application\/json/);
    isPortal = false;
    await isExact(feed);
});

test("a refusal has the problem document and the time to wait", async () => {
    const problem = { type: "busy", detail: "too many streams" };
    const refuse = async () => Response.json(problem, { status: 503, headers: { "Retry-After": "7" } });
    const feed = start("/persons", { fetch: refuse });
    await eventually("it is reported", () => feed.errors.length > 0);
    const [{ status, retryAfter, message, ...error }] = feed.errors;
    assert.deepEqual({ status, retryAfter, problem: error.problem }, { status: 503, retryAfter: 7_000, problem });
    assert.match(message, /503 too many streams/);
});

test("a stored copy goes on with one event instead of a load", async () => {
    const store = memory();
    const first = start("/persons", { store });
    await isExact(first);
    await create("Cid");
    await isExact(first);
    await first.feed.close();
    const { location } = await create("Dan");
    proxy.requests = [];
    const seen = [];
    const second = start("/persons", { store }, (state, { patch }) => seen.push(patch));
    await isExact(second);
    assert.deepEqual(seen, [undefined, { [location.split("/")[2]]: { name: "Dan" } }]);
    assert.equal(proxy.count("/persons"), 0, "it loads nothing");
    assert.equal(proxy.count("/events/persons"), 1);
});

test("a copy that is stored for another filter is not used", async () => {
    const store = memory();
    const one = start("/persons?key=1", { store });
    await isExact(one, "/persons?key=1");
    await one.feed.close();
    assert.ok(store.saved);
    const all = start("/persons", { store });
    await isExact(all);
    assert.equal(proxy.count("/persons"), 2);
});

test("a store that fails does not stop the feed, and keeps its earlier copy", async () => {
    const store = memory();
    const first = start("/persons", { store });
    await isExact(first);
    await first.feed.close();
    const earlier = store.saved;
    store.save = () => { throw new DOMException("The quota has been exceeded.", "QuotaExceededError"); };
    const second = start("/persons", { store });
    await create("too much");
    await isExact(second);
    await second.feed.close();
    assert.deepEqual(second.errors.map(({ name }) => name), ["QuotaExceededError"]);
    assert.equal(store.saved, earlier);
    const third = start("/persons", { store: { load: async () => { throw new Error("no room"); }, save: async () => {} } });
    await isExact(third);
    assert.deepEqual(third.errors.map(({ message }) => message), ["no room"]);
});

test("a store that fails once is used again", async () => {
    const store = memory();
    const { save } = store;
    store.save = () => { throw new Error("no room"); };
    const feed = start("/persons", { store });
    await isExact(feed);
    await eventually("the failure is reported", () => feed.errors.length > 0);
    store.save = save;
    await feed.feed.close();
    assert.equal(store.saved.id, feed.id);
});

test("a foreign id starts over and becomes exact", async () => {
    await create();
    const seen = [];
    const feed = start("/persons", { id: "nonsense" }, (state, { exact, patch }) => seen.push({ exact, patch }));
    await isExact(feed);
    assert.deepEqual(seen[0], { exact: false, patch: null });
    assert.equal(proxy.count("/persons"), 0);
});

test("a reset leaves a collection empty, and never null", async () => {
    const { location } = await create();
    for (const path of ["/persons", "/person-events", "/aggregates"]) {
        const seen = [];
        const feed = start(path, { id: "nonsense" }, (state, { exact }) => seen.push({ state, exact }));
        await isExact(feed, path === "/aggregates" ? path : "/persons");
        assert.deepEqual(seen[0], { state: {}, exact: false }, path);
        assert.ok(seen.every(({ state }) => state !== null), path);
    }
    const seen = [];
    await isExact(start(location, { id: "nonsense" }, (state) => seen.push(state)), location);
    assert.equal(seen[0], null, "one aggregate does not exist");
});

test("from an id without a state, a copy is not exact", async () => {
    const before = start("/persons");
    await isExact(before);
    const feed = start("/persons", { id: before.id });
    const { location } = await create("Eve");
    await eventually("the event arrives", () => feed.state);
    assert.deepEqual(feed.state, { [location.split("/")[2]]: { name: "Eve" } });
    assert.equal(feed.exact, false);
});

test("from an empty id, a copy starts from nothing and becomes exact", async () => {
    const feed = start("/persons", { id: "" });
    await isExact(feed);
    assert.equal(proxy.count("/persons"), 0);
});

test("a loop over a feed gets the current state and ends when the feed is closed", async () => {
    const feed = start("/persons");
    await isExact(feed);
    const seen = [];
    for await (const persons of feed.feed) {
        seen.push(persons);
        if (seen.length === 1) await create("Fay");
        else await feed.feed.close();
    }
    assert.equal(seen.length, 2);
    assert.deepEqual(seen[1], (await service.get("/persons")).state);
    // Between the two, nothing that is the same was copied.
    const [key] = Object.keys(seen[0]);
    assert.equal(seen[1][key], seen[0][key]);
});

test("a loop skips the states that nobody had time for", async () => {
    const feed = start("/persons");
    await isExact(feed);
    const states = feed.feed[Symbol.asyncIterator]();
    await states.next();
    for (const name of ["a", "b", "c"]) await create(name);
    await isExact(feed);
    assert.equal((await states.next()).value, feed.state);
});

test("a signal closes a feed and ends its loops", async () => {
    const controller = new AbortController();
    const feed = start("/persons", { signal: controller.signal });
    await isExact(feed);
    const states = feed.feed[Symbol.asyncIterator]();
    await states.next();
    const next = states.next();
    controller.abort();
    assert.deepEqual(await next, { value: undefined, done: true });
    await create("Gus");
    assert.deepEqual(feed.errors, []);
});

test("a mistake in a callback is reported as usual, and the feed goes on", async () => {
    const module = new URL("../../../web/follow.js", import.meta.url);
    // In a process of its own, because a test fails with what is reported.
    const program = `
        import { follow } from "${module}";
        const reported = [];
        process.on("uncaughtException", ({ message }) => reported.push(message));
        const fail = (what) => { throw new Error(what); };
        const store = { load: () => fail("load"), save: () => {} };
        const feed = follow("${proxy.url}/persons", () => fail("onChange"), { store, onError: () => fail("onError") });
        for await (const state of feed) {
            await feed.close();
            console.log(JSON.stringify({ reported, state }));
        }`;
    const { stdout } = await promisify(execFile)(process.execPath, ["--input-type=module", "--eval", program]);
    const { state } = await service.get("/persons");
    assert.deepEqual(JSON.parse(stdout), { reported: ["onError", "onChange"], state });
});

test("messages come from one stream, which ends with an error when it is cut", async () => {
    const { revision } = await create("Hal");
    const seen = [];
    await assert.rejects(async () => {
        for await (const message of messages(`${proxy.url}/person-events`, { lastEventId: "" })) {
            seen.push(message);
            if (message.id?.endsWith(`.${revision}`)) proxy.cut();
        }
    });
    assert.equal(seen[0].data, "{}");
    assert.equal(seen[0].id, undefined);
    assert.equal(proxy.count("/person-events"), 1);
});

test("messages of a stream that is refused are an error with its status", async () => {
    const read = messages(`${proxy.url}/person-events?revision=x`).next();
    await assert.rejects(read, ({ status, problem }) => status === 400 && problem.status === 400);
});
