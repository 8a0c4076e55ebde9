// What holds for every view of the page: it fits, it can be read by everybody, it weighs little, and it asks nobody else.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { axe, complaints, screenshot, startBrowser } from "./browser.mjs";
import { Service } from "./service.mjs";
import { furnish, goTo, viewsOf } from "./views.mjs";

const POLICY = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; object-src 'none'; form-action 'self'";
const WIDTHS = [400, 768, 1024, 1600];
/** Bytes, uncompressed. */
const PAGE_LIMIT = 150 * 1024;
const DOCS_LIMIT = 40 * 1024;

test("the page and /docs have the security headers, and everything they load comes from the service", async (t) => {
    const { service, page, views, responses } = await open(t);
    for (const path of ["/docs", "/"]) {
        const headers = (await page.goto(service.url + path)).headers();
        await page.getByText("persons").first().waitFor();
        assert.equal(headers["content-security-policy"], POLICY, path);
        assert.equal(headers["x-content-type-options"], "nosniff", path);
        assert.equal(headers["referrer-policy"], "no-referrer", path);
    }
    for (const view of views) await goTo(page, view);
    for (const { url } of responses) assert.equal(new URL(url).origin, service.url, url);
});

test("no view has anything that axe-core calls serious, in light and in dark, and none complains", async (t) => {
    const { page, views, complaints } = await open(t);
    for (const colorScheme of ["light", "dark"]) {
        await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
        for (const view of views) {
            await goTo(page, view);
            assert.deepEqual(await seriousFindings(page), [], `${view} in ${colorScheme}`);
        }
    }
    assert.deepEqual(complaints, []);
});

test("/docs has nothing that axe-core calls serious, in light and in dark, and does not complain", async (t) => {
    const { service, page, complaints } = await open(t);
    await page.goto(`${service.url}/docs`);
    await page.getByText("/persons").first().waitFor();
    for (const colorScheme of ["light", "dark"]) {
        await page.emulateMedia({ colorScheme });
        assert.deepEqual(await seriousFindings(page), [], colorScheme);
        for (const width of WIDTHS) {
            await page.setViewportSize({ width, height: 800 });
            assert.equal(await overflow(page), 0, `${width} px`);
        }
        await screenshot(page, `docs-${colorScheme}`);
    }
    assert.deepEqual(complaints, []);
});

test("no view scrolls sideways at 400 px, at 1,600 px or in between", async (t) => {
    const { page, views } = await open(t);
    for (const width of WIDTHS) {
        await page.setViewportSize({ width, height: 800 });
        for (const view of views) {
            await goTo(page, view);
            assert.equal(await overflow(page), 0, `${view} at ${width} px`);
            if (width === 400 || width === 1600) await screenshot(page, `view-${view.replace(/[#/]+/g, "-").slice(1, 20)}-${width}`);
        }
    }
});

test("the page is at most 150 KiB in all its views, and /docs adds at most 40 KiB", async (t) => {
    const { service, page, views, responses } = await open(t);
    for (const view of views) await goTo(page, view);
    const ofPage = await weigh(responses);
    assert.ok(ofPage.size > 3, "its files are seen");
    assert.ok(sum(ofPage) <= PAGE_LIMIT, `the page: ${sum(ofPage)}`);
    await page.goto(`${service.url}/docs`);
    await page.getByText("/persons").first().waitFor();
    const ofBoth = await weigh(responses);
    console.log(`the page: ${sum(ofPage)} bytes in ${ofPage.size} files; /docs: ${sum(ofBoth) - sum(ofPage)} more`);
    assert.ok(ofBoth.size > ofPage.size, "those of /docs too");
    assert.ok(sum(ofBoth) - sum(ofPage) <= DOCS_LIMIT, `/docs: ${sum(ofBoth) - sum(ofPage)} more`);
});

test("the page draws its first view at once", async (t) => {
    const { service, page } = await open(t);
    await page.goto("about:blank");
    await page.goto(`${service.url}/`);
    await page.locator("h1:not(:empty)").waitFor();
    const paints = await page.evaluate(() => Object.fromEntries(performance.getEntriesByType("paint").map(({ name, startTime }) => [name, Math.round(startTime)])));
    console.log("first paint, in ms:", JSON.stringify(paints));
    assert.ok(paints["first-contentful-paint"] >= 0);
});

/** A page of a service with something in each view, and what it loads and complains about. */
async function open(test) {
    const service = await Service.start(test);
    const views = await viewsOf(service, await furnish(service));
    const page = await (await startBrowser(test)).newPage();
    const collected = complaints(page);
    const responses = [];
    page.on("response", (response) => responses.push(new Loaded(response)));
    await page.goto(`${service.url}/`);
    return { service, page, views, responses, complaints: collected };
}

/** A response that the page got. */
class Loaded {
    size = 0;

    constructor(response) {
        this.url = response.url();
        this.headers = response.headers();
        this.isFile = /^(text\/html|text\/css|text\/javascript|application\/javascript|image\/)/.test(this.headers["content-type"] ?? "");
        this.sized = this.isFile ? response.body().then((body) => { this.size = body.length; }, () => {}) : Promise.resolve();
    }
}

async function seriousFindings(page) {
    // Not as a script of the page: its policy forbids that.
    await page.evaluate(readFileSync(axe, "utf8"));
    const { violations } = await page.evaluate(() => globalThis.axe.run());
    return violations.filter(({ impact }) => impact === "serious" || impact === "critical")
        .map(({ id, nodes }) => `${id}: ${nodes.map(({ html, failureSummary }) => `${html} ${failureSummary}`).join("; ")}`);
}

/** The size of each file. One that is asked for again is a 304 without a body. */
async function weigh(responses) {
    await Promise.all(responses.map(({ sized }) => sized));
    const sizes = new Map();
    for (const { url, size, isFile } of responses) if (isFile) sizes.set(url, Math.max(size, sizes.get(url) ?? 0));
    return sizes;
}

function sum(sizes) {
    return [...sizes.values()].reduce((total, size) => total + size, 0);
}

/** How far the page can be scrolled sideways, in CSS pixels. */
function overflow(page) {
    return page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
}
