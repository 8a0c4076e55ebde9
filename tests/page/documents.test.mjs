// The JavaScript of the README and of docs/ is run as it stands there: in pages of the same origin, of another origin, of
// no origin (a file), and behind nginx, which answers 502 while the service is away; and in Node. What it shows equals what
// GET answers, before and after a kill -9 of the service.

import assert from "node:assert/strict";
import { fork } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { pathToFileURL } from "node:url";
import { isDeepStrictEqual } from "node:util";

import { complaints, startBrowser, withoutNetworkErrors } from "./browser.mjs";
import { blocks, blocksOf } from "./documents.mjs";
import { startNginx } from "./nginx.mjs";
import { Service } from "./service.mjs";
import { until } from "./until.mjs";

const all = blocks();
const inBrowser = all.filter(({ kind }) => kind === "script" || kind === "page");
const programs = all.filter(({ kind }) => kind === "program");
/** Those that name the service work in a page of another origin too. */
const absolute = inBrowser.filter(({ text }) => text.includes("http://localhost:3000/"));

test("blocks are found with their line and kind", () => {
    const markdown = "a\n```js\nrender(1);\n```\n\n- b\n\n  ```js\n  // copy.mjs\n  run();\n  ```\n```html\n<p>\n```\n```js\nfunction f(a) {\n    return a;\n}\n```\n";
    assert.deepEqual(blocksOf("x.md", markdown).map(({ name, kind, text }) => [name, kind, text]), [
        ["x.md:2", "script", "render(1);\n"],
        ["x.md:8", "program", "// copy.mjs\nrun();\n"],
        ["x.md:12", "page", "<p>\n"],
        ["x.md:15", "library", "function f(a) {\n    return a;\n}\n"],
    ]);
});

test("every block is run: each is in a language that this runs, and what only declares functions is used", () => {
    assert.ok(inBrowser.length > 0);
    for (const { name, language } of all) assert.ok(["js", "html"].includes(language), `${name}: ${language} is not run`);
    for (const library of all.filter(({ kind }) => kind === "library")) {
        assert.ok(inBrowser.some((block) => librariesOf(block).includes(library)), `${library.name}: its document does not use it`);
    }
});

test("in a page of the same origin", async (t) => {
    const service = await Service.start(t);
    const browser = await startBrowser(t, service.address);
    await staysExact(service, await openSameOrigin(browser), "connection refused");
});

test("behind nginx, which answers 502 while the service is away", async (t) => {
    const service = await Service.start(t);
    const browser = await startBrowser(t, await startNginx(t, service));
    await staysExact(service, await openSameOrigin(browser), 502);
});

test("in a page of another origin, which --cors-origin names", async (t) => {
    assert.ok(absolute.length > 0);
    const server = createServer((request, response) => {
        response.setHeader("Content-Type", "text/html; charset=utf-8");
        response.end(htmlOf(absolute[Number(request.url.slice(1))]));
    });
    await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
    t.after(() => server.close());
    const origin = `http://127.0.0.1:${server.address().port}`;
    const service = await Service.start(t, "--cors-origin", origin);
    const browser = await startBrowser(t, service.address);
    const opened = absolute.map((block, index) => open(browser, block, `${origin}/${index}`));
    await staysExact(service, await Promise.all(opened), "connection refused");
});

test("in a file, with --cors-origin null", async (t) => {
    const directory = await temporaryDirectory(t);
    const service = await Service.start(t, "--cors-origin", "null");
    const browser = await startBrowser(t, service.address);
    const opened = absolute.map(async (block, index) => {
        const file = join(directory, `${index}.html`);
        await writeFile(file, htmlOf(block));
        return open(browser, block, pathToFileURL(file).href);
    });
    await staysExact(service, await Promise.all(opened), "connection refused");
});

test("in Node", async (t) => {
    const service = await Service.start(t);
    const directory = await temporaryDirectory(t);
    // As the documents say: curl -so follow.mjs localhost:3000/follow.js
    const follow = await fetch(`${service.url}/follow.js`);
    await writeFile(join(directory, "follow.mjs"), await follow.text());
    const started = programs.map(async (block, index) => {
        const file = join(directory, `${index}.mjs`);
        await writeFile(file, block.text);
        return runInNode(t, block, file, service);
    });
    await staysExact(service, await Promise.all(started), "connection refused");
});

/**
 * A block that runs somewhere.
 * @typedef {object} Subject
 * @property {string} name
 * @property {() => unknown} shown what it has shown last; may be asynchronous
 * @property {Set<number | string>} outages what it has met while the service was away
 * @property {() => string[]} complaints
 */

/**
 * What the subjects show follows the service, through a kill -9 that each of them meets.
 * @param {Service} service
 * @param {Subject[]} subjects
 * @param {number | string} outage what they meet while the service is away
 */
async function staysExact(service, subjects, outage) {
    for (const subject of subjects) assert.deepEqual(subject.complaints(), [], subject.name);
    for (const name of ["Ann", "Bob", "Cid"]) await service.write("POST", "/persons", { name, city: "Rome" });
    await service.write("DELETE", "/persons/2");
    await allShow(service, subjects, "at first");

    await service.kill();
    for (const subject of subjects) {
        await until(`${subject.name} meets: ${outage}`, () => subject.outages.has(outage));
    }
    await service.start();
    await service.write("PATCH", "/persons/1", { city: null });
    await service.write("POST", "/persons", { name: "Dan", spouse: 3 });
    await allShow(service, subjects, "after a kill and a start");
    for (const subject of subjects) assert.deepEqual(subject.complaints(), [], subject.name);
}

async function allShow(service, subjects, when) {
    const expected = await service.get("/persons");
    for (const { name, shown, complaints } of subjects) {
        const isExact = async () => isDeepStrictEqual(await shown(), expected);
        await until(`${name} shows ${JSON.stringify(expected)} ${when}`, async () => complaints().length > 0 || isExact());
        assert.deepEqual(complaints(), [], name);
    }
}

function openSameOrigin(browser) {
    return Promise.all(inBrowser.map((block) => open(browser, block, "http://localhost:3000/shop.html")));
}

/** @returns {Promise<Subject>} */
async function open(browser, block, url) {
    // Of its own storage and locks, so that none shares the stream of another one.
    const page = await browser.newPage();
    await page.route("http://localhost:3000/shop.html", (route) => route.fulfill({ contentType: "text/html; charset=utf-8", body: htmlOf(block) }));
    const collected = complaints(page);
    const outages = new Set();
    page.on("requestfailed", () => outages.add("connection refused"));
    page.on("response", (response) => outages.add(response.status()));
    await page.goto(url);
    const shown = () => page.evaluate(() => globalThis.shown ?? JSON.parse(document.querySelector("pre").textContent));
    return { name: block.name, shown, outages, complaints: () => withoutNetworkErrors(collected) };
}

/** A page as somebody would write it around this block. */
function htmlOf(block) {
    if (block.kind === "page") return block.text;
    const script = [block, ...librariesOf(block)].map(({ text }) => text).join("\n");
    return `<!doctype html>
        <meta charset="utf-8"><link rel="icon" href="data:,"><title>shop</title>
        <script>const render = (state) => { globalThis.shown = structuredClone(state); };</script>
        <script type="module">${script}</script>`;
}

function librariesOf(block) {
    const names = ({ text }) => [...text.matchAll(/^(?:export )?(?:async )?function\*? (\w+)/gm)].map((match) => match[1]);
    return all.filter(({ kind, document }) => kind === "library" && document === block.document)
        .filter((library) => names(library).some((name) => block.text.includes(`${name}(`)));
}

/** @returns {Promise<Subject>} */
async function runInNode(test, block, file, service) {
    const preload = join(import.meta.dirname, "reports-to-its-parent.mjs");
    const child = fork(file, {
        execArgv: ["--import", preload],
        env: { ...process.env, DUALITY_AT: service.url },
        stdio: ["ignore", "ignore", "pipe", "ipc"],
    });
    test.after(() => child.kill("SIGKILL"));
    const subject = { name: block.name, outages: new Set(), shown: () => subject.last, complaints: () => errors };
    const errors = [];
    // What it warns of is shown if it ends, which it never does by itself.
    let warnings = "";
    child.stderr.setEncoding("utf8").on("data", (text) => { warnings += text; });
    child.on("message", ({ shown, outage }) => {
        if (shown !== undefined) subject.last = shown;
        if (outage !== undefined) subject.outages.add(outage);
    });
    child.on("exit", (code) => errors.push(`it ended with ${code}: ${warnings}`));
    return subject;
}

async function temporaryDirectory(test) {
    const directory = await mkdtemp(join(tmpdir(), "duality-page-"));
    test.after(() => rm(directory, { recursive: true }));
    return directory;
}
