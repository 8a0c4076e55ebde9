// Ten thousand persons and 1,000 writes a second: the page keeps few rows, draws once a frame, and is exact in the end.

import assert from "node:assert/strict";
import { Agent, request } from "node:http";
import { test } from "node:test";
import { isDeepStrictEqual } from "node:util";

import { complaints, screenshot, startBrowser } from "./browser.mjs";
import { Service } from "./service.mjs";
import { goTo, shownState } from "./views.mjs";
import { until } from "./until.mjs";

const PERSONS = 10_000;
const WRITES_A_SECOND = 1_000;
const SECONDS = Number(process.env.DUALITY_PAGE_SECONDS ?? 10);
const ROWS = 200;
/** Writes that wait for their answers. */
const MOST_WAITING = 256;

test(`${PERSONS} persons and ${WRITES_A_SECOND} writes a second for ${SECONDS} s: at most ${ROWS} rows, and one render a frame`, async (t) => {
    const service = await Service.start(t);
    const writer = new Writer(t, service);
    await writer.createPersons(PERSONS);
    const page = await (await startBrowser(t)).newPage({ permissions: ["clipboard-read", "clipboard-write"] });
    const collected = complaints(page);
    await page.goto(`${service.url}/`);
    await goTo(page, "#/persons");
    await page.locator("main tbody tr").nth(5).waitFor();
    await page.evaluate(observe);

    await writer.changePersons(PERSONS, SECONDS);
    const seen = await page.evaluate(() => globalThis.observed);
    await page.evaluate(() => { globalThis.observed.isOver = true; });
    console.log(`${writer.written} writes, ${Math.round(writer.written / writer.seconds)}/s; ${(seen.frames / writer.seconds).toFixed(1)} frames/s, ` +
        `${seen.renders} renders, ${seen.longTasks} long tasks of ${Math.round(seen.longest)} ms at most, ${Math.round(seen.blocked)} ms in all; at most ${seen.rows} rows`);
    assert.ok(seen.renders > 0, "it draws");
    assert.ok(seen.rows <= ROWS, `${seen.rows} rows are in the document`);
    assert.ok(seen.rendersInAFrame <= 1, `${seen.rendersInAFrame} renders in a frame`);

    await until("the page has everything", async () => isDeepStrictEqual(await shownState(page), await service.get("/persons")));
    await screenshot(page, "load");
    assert.deepEqual(collected, []);
});

/** Runs in the page: counts frames, rows, long tasks, and how often the view changes between two frames. */
function observe() {
    const seen = { frames: 0, rows: 0, renders: 0, rendersInAFrame: 0, longTasks: 0, longest: 0, blocked: 0, isOver: false };
    globalThis.observed = seen;
    const rows = document.getElementsByTagName("tr");
    let sinceFrame = 0;
    // One call for all changes of one task or callback, which is what a render is.
    new MutationObserver(() => {
        seen.renders += 1;
        sinceFrame += 1;
        seen.rows = Math.max(seen.rows, rows.length);
    }).observe(document.querySelector("main"), { subtree: true, childList: true, characterData: true });
    new PerformanceObserver((list) => {
        for (const { duration } of list.getEntries()) {
            seen.longTasks += 1;
            seen.longest = Math.max(seen.longest, duration);
            seen.blocked += duration;
        }
    }).observe({ type: "longtask" });
    const frame = () => {
        seen.frames += 1;
        seen.rows = Math.max(seen.rows, rows.length);
        seen.rendersInAFrame = Math.max(seen.rendersInAFrame, sinceFrame);
        sinceFrame = 0;
        if (!seen.isOver) requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
}

/** Writes over a few connections that stay open. */
class Writer {
    written = 0;
    seconds = 0;
    #agent = new Agent({ keepAlive: true, maxSockets: 32 });

    constructor(test, service) {
        this.service = service;
        test.after(() => this.#agent.destroy());
    }

    async createPersons(count) {
        let left = count;
        await Promise.all(Array.from({ length: 32 }, async () => {
            while (left-- > 0) await this.#write("POST", "/persons", { name: `person ${left}`, city: `city ${left % 100}` });
        }));
    }

    /** Changes persons at the intended speed, or as fast as the service answers if that is slower. */
    async changePersons(count, seconds) {
        const start = performance.now();
        const elapsed = () => (performance.now() - start) / 1000;
        let waiting = 0;
        const writes = [];
        while (elapsed() < seconds) {
            for (const due = elapsed() * WRITES_A_SECOND; this.written < due && waiting < MOST_WAITING; this.written++) {
                const key = 1 + ((this.written * 7919) % count);
                waiting += 1;
                writes.push(this.#write("PATCH", `/persons/${key}`, { name: `changed ${this.written}` }).finally(() => { waiting -= 1; }));
            }
            // The speed is what is wanted here, so this is the one place that waits for time.
            await new Promise((resolve) => setTimeout(resolve, 5));
        }
        await Promise.all(writes);
        this.seconds = elapsed();
    }

    #write(method, path, body) {
        const { port } = this.service;
        return new Promise((resolve, reject) => {
            const options = { method, port, path, agent: this.#agent, headers: { "Content-Type": "application/json" } };
            request(options, (response) => {
                response.resume().on("end", () => {
                    if (response.statusCode < 300) resolve();
                    else reject(new Error(`${method} ${path}: ${response.statusCode}`));
                });
            }).on("error", reject).end(JSON.stringify(body));
        });
    }
}
