// What /docs shows: the description of the service, which can be tried.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";

import { axe, complaints, screenshot, startBrowser } from "./browser.mjs";
import { Service } from "./service.mjs";

async function openDocs(t, options, hash = "") {
    const service = await Service.start(t);
    const browser = await startBrowser(t);
    const page = await browser.newPage(options);
    const complained = complaints(page);
    const hosts = new Set();
    page.on("request", (request) => hosts.add(new URL(request.url()).host));
    await page.goto(`${service.url}/docs${hash}`);
    await page.waitForSelector("details.operation");
    return { service, page, complained, hosts };
}

test("/docs lists every operation of /openapi.json and asks no other host", async (t) => {
    const { service, page, complained, hosts } = await openDocs(t, { viewport: { width: 1200, height: 900 } });
    const { paths } = await (await fetch(`${service.url}/openapi.json`)).json();
    const count = Object.values(paths).reduce((sum, methods) => sum + Object.keys(methods).length, 0);
    assert.equal(await page.locator("details.operation").count(), count);
    assert.equal(await page.locator("nav li a").count(), count);
    // Everything is opened once, so that no schema breaks it.
    await page.evaluate(() => document.querySelectorAll("details.operation").forEach((node) => { node.open = true; }));
    await page.waitForFunction((all) => document.querySelectorAll(".call").length === all, count);
    await page.evaluate(() => document.querySelectorAll("details.operation").forEach((node) => { node.open = false; }));
    await page.evaluate(() => scrollTo(0, 0));
    await screenshot(page, "docs");
    assert.deepEqual([...hosts], [service.address]);
    assert.deepEqual(complained, []);
});

test("an operation is opened by its address and tried with the keyboard alone", async (t) => {
    const { service, page, complained } = await openDocs(t, { viewport: { width: 1200, height: 900 } }, "#createPerson");
    const operation = page.locator("#createPerson");
    assert.equal(await operation.getAttribute("open"), "");
    assert.equal(await operation.locator("summary").evaluate((node) => node === document.activeElement), true);
    const line = `curl -X POST -H 'Content-Type: application/json' -d '{"name": "Ann"}' ${service.url}/persons`;
    assert.ok((await operation.locator(".call pre").first().textContent()).includes(line));
    await operation.getByRole("button", { name: "Send" }).focus();
    await page.keyboard.press("Enter");
    const answer = operation.locator("pre[aria-label=Response]");
    await page.waitForFunction((node) => node.textContent.includes('"name": "Ann"'), await answer.elementHandle());
    assert.match(await answer.textContent(), /^201 /);
    await operation.scrollIntoViewIfNeeded();
    await screenshot(page, "docs-operation");
    await page.evaluate(await readFile(axe, "utf8"));
    const { violations } = await page.evaluate(() => axe.run());
    assert.deepEqual(violations.filter(({ impact }) => ["serious", "critical"].includes(impact)).map(({ id, nodes }) => `${id}: ${nodes[0].html}`), []);
    assert.deepEqual(complained, []);
});

test("a stream is shown as it arrives and stopped", async (t) => {
    const { service, page, complained } = await openDocs(t, { viewport: { width: 400, height: 800 }, colorScheme: "dark" }, "#followAllPerson");
    const operation = page.locator("#followAllPerson");
    await operation.locator("select").selectOption("text/event-stream");
    await operation.getByRole("button", { name: "Send" }).click();
    const answer = operation.locator("pre[aria-label=Response]");
    await page.waitForFunction((node) => node.textContent.includes("data: {}"), await answer.elementHandle());
    await fetch(`${service.url}/persons`, { method: "POST", headers: { "content-type": "application/json" }, body: '{"name":"Zoe"}' });
    await page.waitForFunction((node) => node.textContent.includes('"name":"Zoe"'), await answer.elementHandle());
    await operation.getByRole("button", { name: "Stop" }).click();
    await page.waitForFunction((node) => node.textContent.includes("(stopped)"), await answer.elementHandle());
    await screenshot(page, "docs-narrow");
    const isTooWide = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
    assert.equal(isTooWide, false);
    assert.deepEqual(complained, []);
});
