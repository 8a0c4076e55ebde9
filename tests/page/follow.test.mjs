// /follow.js in a real browser: what tabs share, what a stored copy saves, and what it survives.

import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { isDeepStrictEqual } from "node:util";

import { complaints, startBrowser, startPersistentBrowser, withoutNetworkErrors } from "./browser.mjs";
import { startForwarder } from "./forwarder.mjs";
import { startNginx } from "./nginx.mjs";
import { Service } from "./service.mjs";
import { until } from "./until.mjs";

test("two tabs share one stream, and when the one that has it closes, the other goes on without a loss", async (t) => {
    const { service, context } = await start(t);
    const first = await openTab(context, service.url, "{ share: true }");
    await first.follows(service);
    const second = await openTab(context, service.url, "{ share: true }");
    await second.follows(service);
    assert.equal(await service.metric("duality_open_streams"), 1);

    const writing = writePersons(service, 40);
    await until("the second tab has some of them", async () => (await second.feed()).revision > 10);
    await first.page.close();
    await writing;
    await second.follows(service);
    assert.equal(await service.metric("duality_open_streams"), 1);
    assert.deepEqual(second.complaints(), []);
});

test("the tab that has the stream is closed by a crash of its renderer: the other goes on", async (t) => {
    const { service, context } = await start(t);
    const first = await openTab(context, service.url, "{ share: true }");
    await first.follows(service);
    const second = await openTab(context, service.url, "{ share: true }");
    await second.follows(service);
    await first.page.goto("chrome://crash").catch(() => {});
    await writePersons(service, 5);
    await second.follows(service);
    assert.deepEqual(second.complaints(), []);
});

for (const store of ["localStorageStore", "indexedDbStore"]) {
    test(`${store}: after a restart of the browser, a stored copy goes on with one event instead of a load`, async (t) => {
        const service = await Service.start(t);
        const directory = await mkdtemp(join(tmpdir(), "duality-profile-"));
        t.after(() => rm(directory, { recursive: true, maxRetries: 5 }));
        const options = `{ store: follow.${store}("persons") }`;
        await writePersons(service, 3);

        const before = await startPersistentBrowser(directory);
        const tab = await openTab(before, service.url, options).finally(() => t.after(() => before.close()));
        await tab.follows(service);
        await tab.hasStored(store, (await tab.feed()).id);
        await before.close();

        await service.write("POST", "/persons", { name: "while away" });
        const after = await startPersistentBrowser(directory);
        t.after(() => after.close());
        const again = await openTab(after, service.url, options);
        await again.follows(service);
        const patches = await again.page.evaluate(() => changes.map(({ patch }) => patch).filter((patch) => patch !== undefined));
        assert.deepEqual(patches, [{ 4: { name: "while away" } }]);
        assert.deepEqual(again.requests.filter((path) => path === "/persons"), [], "it loads nothing");
        assert.deepEqual(again.complaints(), []);
    });
}

test("a store without room: the copy stays exact, and after a reload too", async (t) => {
    const { service, context } = await start(t);
    await writePersons(service, 3);
    const options = `{ store: follow.localStorageStore("persons") }`;
    const tab = await openTab(context, service.url, options, fillLocalStorage);
    await tab.follows(service);
    await writePersons(service, 3);
    await tab.follows(service);
    assert.deepEqual(tab.complaints(), []);
    await tab.page.reload();
    await tab.follows(service);
    assert.deepEqual(tab.complaints(), []);
});

test("a store that has room for a while: what is stored is never newer or older than its id", async (t) => {
    const { service, context } = await start(t);
    await service.write("POST", "/persons", { name: "Ann" });
    const options = `{ store: follow.localStorageStore("persons") }`;
    const tab = await openTab(context, service.url, options);
    await tab.follows(service);
    await tab.hasStored("localStorageStore", (await tab.feed()).id);
    await tab.page.evaluate(fillLocalStorage);
    await service.write("POST", "/persons", { name: "Bob".repeat(1000) });
    await tab.follows(service);
    await service.write("DELETE", "/persons/1");
    await tab.follows(service);
    await tab.page.reload();
    await tab.follows(service);
    assert.deepEqual(tab.complaints(), []);
});

test("tabs with a store behind nginx: after a kill and its 502s both are exact again, with one stream", async (t) => {
    const service = await Service.start(t);
    const url = `http://${await startNginx(t, service)}`;
    const context = await (await startBrowser(t)).newContext();
    const options = `{ share: true, store: follow.indexedDbStore("persons") }`;
    const tabs = [await openTab(context, url, options), await openTab(context, url, options)];
    await writePersons(service, 3);
    for (const tab of tabs) await tab.follows(service);
    await service.kill();
    await until("a tab meets a 502", () => tabs.some(({ statuses }) => statuses.has(502)));
    await service.start();
    await writePersons(service, 3);
    for (const tab of tabs) await tab.follows(service);
    await until("one stream is left", async () => (await service.metric("duality_open_streams")) === 1);
    for (const tab of tabs) assert.deepEqual(tab.complaints(), []);
});

test("a tab that was frozen while the service restarted is exact when it wakes up", async (t) => {
    const { service, context } = await start(t);
    const tab = await openTab(context, service.url, "{}");
    await tab.follows(service);
    const devtools = await context.newCDPSession(tab.page);
    await devtools.send("Page.setWebLifecycleState", { state: "frozen" });
    await writePersons(service, 3);
    await service.restart();
    await writePersons(service, 3);
    await devtools.send("Page.setWebLifecycleState", { state: "active" });
    await tab.follows(service);
    assert.deepEqual(tab.complaints(), []);
});

test("a sleep after which nothing comes any more on the old connection: the tab notices it and opens another one", async (t) => {
    const service = await Service.start(t);
    const forwarder = await startForwarder(t, service);
    const context = await (await startBrowser(t)).newContext();
    const tab = await openTab(context, forwarder.url, "{}", () => {}, async (page) => page.clock.install());
    await tab.follows(service);
    forwarder.silence();
    await writePersons(service, 3);
    await tab.page.clock.fastForward("10:00");
    await tab.follows(service);
    assert.deepEqual(tab.complaints(), []);
});

test("an offline browser is exact when it is online again", async (t) => {
    const { service, context } = await start(t);
    const tab = await openTab(context, service.url, "{}");
    await tab.follows(service);
    await context.setOffline(true);
    await service.restart();
    await writePersons(service, 3);
    await context.setOffline(false);
    await tab.follows(service);
    assert.deepEqual(tab.complaints(), []);
});

test("a database that was replaced: the copy is the one of the new database", async (t) => {
    const { service, context } = await start(t);
    await writePersons(service, 5);
    const tab = await openTab(context, service.url, `{ store: follow.localStorageStore("persons") }`);
    await tab.follows(service);
    await service.kill();
    await service.forget();
    await service.start();
    await writePersons(service, 2);
    await tab.follows(service);
    assert.deepEqual(tab.complaints(), []);
});

async function start(test, ...flags) {
    const service = await Service.start(test, ...flags);
    return { service, context: await (await startBrowser(test)).newContext() };
}

async function writePersons(service, count) {
    for (let written = 0; written < count; written++) await service.write("POST", "/persons", { name: `person ${written}`, city: "Rome" });
}

/**
 * A tab of the service's origin that follows the persons.
 * @param {string} options those of `follow`, as they would be written
 * @param {() => void} [before] runs in the page before that
 * @param {(page: import("playwright-core").Page) => Promise<void>} [prepare]
 */
async function openTab(context, origin, options, before = () => {}, prepare = async () => {}) {
    const page = await context.newPage();
    await prepare(page);
    const tab = new Tab(page);
    await page.route(`${origin}/tab.html`, (route) => route.fulfill({ contentType: "text/html", body: tabWith(options, before) }));
    await page.goto(`${origin}/tab.html`);
    await page.waitForFunction(() => globalThis.feed !== undefined);
    return tab;
}

function tabWith(options, before) {
    return `<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><title>tab</title>
        <script type="module">
            import * as follow from "/follow.js";
            (${before})();
            globalThis.follow = follow;
            globalThis.changes = [];
            globalThis.feed = follow.follow("/persons", (state, change) => changes.push({ state, ...change }), ${options});
        </script>`;
}

class Tab {
    #complaints;
    statuses = new Set();
    /** The paths that it has requested. */
    requests = [];

    constructor(page) {
        this.page = page;
        this.#complaints = complaints(page);
        page.on("request", (request) => this.requests.push(new URL(request.url()).pathname));
        page.on("response", (response) => this.statuses.add(response.status()));
    }

    feed() {
        return this.page.evaluate(() => ({ state: feed.state, revision: feed.revision, exact: feed.exact, id: feed.id }));
    }

    /** Waits until it says that its copy is exact and the copy equals what the service answers. */
    async follows(service) {
        const expected = await service.get("/persons");
        await until(`the copy is ${JSON.stringify(expected).slice(0, 200)}`, async () => {
            const { state, exact } = await this.feed();
            return exact && isDeepStrictEqual(state, expected);
        });
    }

    /** Waits until a store has a copy with this id: it may write later than it shows. */
    async hasStored(store, id) {
        await until(`${store} has ${id}`, () => this.page.evaluate(async ([store, id]) => {
            return (await follow[store]("persons").load())?.id === id;
        }, [store, id]));
    }

    complaints() {
        return withoutNetworkErrors(this.#complaints);
    }
}

/** Runs in a page: leaves no room in localStorage. */
function fillLocalStorage() {
    let length = 5 * 1024 * 1024;
    for (let name = 0; length >= 1; name++) {
        try {
            localStorage.setItem(`filler ${name}`, "x".repeat(length));
        } catch {
            length = Math.floor(length / 2);
        }
    }
}
