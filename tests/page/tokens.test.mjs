// A service with tokens: the page asks for one, works with it, and says what it may not read.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

import { axe, complaints, screenshot, startBrowser, withoutNetworkErrors } from "./browser.mjs";
import { Service } from "./service.mjs";
import { goTo } from "./views.mjs";
import { until } from "./until.mjs";

test("the page asks for a token, keeps it for the tab only, and works with it in every view", async (t) => {
    const { service, page, context, collected, requests, tokens } = await open(t);
    const all = tokens.make("everything", "read,write,operate");
    await page.goto(`${service.url}/#/persons`);
    await field(page).waitFor();
    await looksGood(page, "token-asked");
    await page.getByRole("button", { name: "Use it" }).click();
    await page.getByText("A token is one word").waitFor();
    await paste(page, `duality_${"0".repeat(64)}`);
    await page.getByText("the token is unknown, or no longer valid").waitFor();
    await looksGood(page, "token-refused");
    await paste(page, all);
    const form = page.getByRole("form", { name: "New in persons" });
    await form.getByLabel("name").fill("Ann");
    await form.getByRole("button", { name: "Create" }).click();
    await page.getByRole("cell", { name: "Ann" }).waitFor();
    const cart = (await service.write("POST", "/carts", undefined, all)).headers.get("Location");
    await service.write("POST", `${cart}/add-item`, { item: "apple" }, all);
    for (const [view, text] of [
        ["#/carts", "apple"], [`#${cart}`, "apple"], ["#/feed/cart-events", "The copy equals GET /carts"], ["#/journal", "apple"],
        ["#/projections", "live"], ["#/reports/popular-items", "1 row"], ["#/service", "Everything works"],
    ]) {
        await goTo(page, view);
        await page.getByText(text).first().waitFor();
    }
    const snippets = await page.locator(".snippets pre").allInnerTexts();
    assert.ok(snippets.every((text) => text.includes("Authorization: Bearer <token>")), snippets.join());
    assert.ok(!(await page.content()).includes(all), "the token is not shown");
    await looksGood(page, "token-used");
    await page.reload();
    await page.getByText("Everything works").waitFor();

    const other = await context.newPage();
    await other.goto(service.url);
    await field(other).waitFor();

    await page.getByRole("button", { name: "Forget the token" }).click();
    await field(page).waitFor();
    const secret = all.slice("duality_".length);
    const kept = await page.evaluate(() => JSON.stringify({ ...sessionStorage, ...localStorage }));
    assert.ok(!kept.includes(secret), "it is forgotten");
    assert.deepEqual(requests.filter((url) => url.includes(secret)), [], "no token is in an address");
    assert.deepEqual(withoutNetworkErrors(collected), []);
    assert.ok(!service.log.includes(secret));
});

test("the page shows what a token may read, says what it may not, and asks again when the token is taken away", async (t) => {
    const { service, page, collected, tokens } = await open(t);
    const all = tokens.make("everything", "read,write,operate");
    await until("the token is in force", () => service.write("POST", "/persons", { name: "Ann" }, all).then(() => true, () => false));
    const reader = tokens.make("reader", "read:persons");
    await page.goto(`${service.url}/#/persons`);
    await paste(page, reader);
    await page.getByRole("cell", { name: "Ann" }).waitFor();
    const column = page.getByRole("navigation");
    for (const name of ["locations", "carts", "accounts"]) await column.getByText(`${name}: no access`).waitFor();
    await column.getByText("reader: read:persons").waitFor();
    for (const [view, text] of [
        ["#/projections", "the token does not have the scope operate"], ["#/service", "the token does not have the scope operate"],
        ["#/reports/popular-items", "the token does not have the scope read:reports/popular-items"], ["#/feed", "The copy equals GET /aggregates"],
    ]) {
        await goTo(page, view);
        await page.getByText(text).first().waitFor();
    }
    await page.evaluate(() => { location.hash = "#/carts"; });
    await page.getByText("The token may not read carts.").waitFor();
    await page.evaluate(() => { location.hash = "#/persons"; });
    const form = page.getByRole("form", { name: "New in persons" });
    await form.getByLabel("name").fill("Bob");
    await form.getByRole("button", { name: "Create" }).click();
    await form.getByText("the token does not have the scope write:persons").waitFor();
    await looksGood(page, "token-limited");
    await service.write("POST", "/persons", { name: "Cid" }, all);
    await page.getByRole("cell", { name: "Cid" }).waitFor();

    tokens.run("revoke", "reader");
    await page.getByText("the token is unknown, or no longer valid").waitFor();
    assert.equal(await page.getByText("Cid").count(), 0, "what it could read is gone");
    await paste(page, all);
    await page.getByRole("cell", { name: "Cid" }).waitFor();
    assert.deepEqual(withoutNetworkErrors(collected), []);
});

test("/docs asks for a token when one is needed, and sends it", async (t) => {
    const { service, page, collected, tokens } = await open(t);
    const reader = tokens.make("reader", "read");
    await page.goto(`${service.url}/docs#getAllPerson`);
    const operation = page.locator("details[open]");
    await operation.waitFor();
    await operation.getByRole("button", { name: "Send" }).click();
    await paste(page, reader);
    await operation.waitFor();
    assert.match(await operation.locator(".call pre").first().textContent(), /Authorization: Bearer <token>/);
    await until("it is answered", async () => {
        await operation.getByRole("button", { name: "Send" }).click();
        return (await operation.locator("pre[aria-label=Response]").textContent()).startsWith("200 ");
    });
    await looksGood(page, "token-docs");
    assert.deepEqual(withoutNetworkErrors(collected), []);
});

test("an EventSource opens a feed with a ticket, and goes on with another one", async (t) => {
    const { service, page, tokens } = await open(t);
    const token = tokens.make("everything", "read,write");
    await until("the token is in force", () => service.write("POST", "/persons", { name: "Ann" }, token).then(() => true, () => false));
    await page.goto(`${service.url}/docs`);
    await page.evaluate((token) => {
        globalThis.seen = [];
        globalThis.connect = async () => {
            const headers = { "Content-Type": "application/json", Authorization: `Bearer ${token}` };
            const response = await fetch("/-/tickets", { method: "POST", headers, body: JSON.stringify({ feed: "/person-events" }) });
            const { url } = await response.json();
            globalThis.source = new EventSource(`${url}&lastEventId=${seen.at(-1) ?? ""}`);
            source.onmessage = ({ lastEventId }) => { if (lastEventId) seen.push(lastEventId); };
            source.onerror = () => { if (source.readyState === EventSource.CLOSED) connect(); };
        };
        return connect();
    }, token);
    const revision = () => page.evaluate(() => Number(seen.at(-1)?.split(".")[1] ?? 0));
    await until("it has the first person", async () => (await revision()) >= 1);
    await service.restart();
    await service.write("POST", "/persons", { name: "Bob" }, token);
    await until("it has the second one too", async () => (await revision()) >= 2);
});

test("the page of clients does without what is for operators", async (t) => {
    const service = await Service.start(t, "--operate-on", "127.0.0.1:0");
    const page = await (await startBrowser(t)).newPage();
    const collected = complaints(page);
    await page.goto(`${service.url}/#/persons`);
    await page.getByText("No persons yet").waitFor();
    const column = page.getByRole("navigation");
    assert.deepEqual([await column.getByText("Projections").count(), await column.getByText("Everything live").count()], [0, 0]);
    await column.getByText("Reports").click();
    await page.getByRole("link", { name: "popular-items" }).click();
    await page.getByText("No rows yet").waitFor();
    await goTo(page, "#/service");
    await page.getByText("writes/s").waitFor();
    assert.deepEqual(collected, []);
});

/** A service with a file of tokens, and a page that is empty so far. */
async function open(t) {
    const directory = await mkdtemp(join(tmpdir(), "duality-tokens-"));
    t.after(() => rm(directory, { recursive: true }));
    const tokens = new Tokens(join(directory, "tokens"));
    tokens.make("nobody", "read:reports/nothing");
    const service = await Service.start(t, "--tokens", tokens.file, "--poll-interval", "20ms");
    const context = await (await startBrowser(t)).newContext();
    const page = await context.newPage();
    const requests = [];
    page.on("request", (request) => requests.push(request.url()));
    return { service, context, page, tokens, requests, collected: complaints(page) };
}

class Tokens {
    constructor(file) {
        this.file = file;
    }

    run(...words) {
        return execFileSync(process.env.DUALITY_BINARY, ["--tokens", this.file, "token", ...words], { encoding: "utf8" }).trim();
    }

    make(name, scope) {
        return this.run("new", name, "--scope", scope);
    }
}

const field = (page) => page.locator(".token input");

async function paste(page, token) {
    await field(page).fill(token);
    await page.keyboard.press("Enter");
}

/** A picture in light, dark and narrow; nothing serious for axe-core, and nothing that has to be scrolled sideways. */
async function looksGood(page, name) {
    for (const [colorScheme, width] of [["light", 1200], ["dark", 1200], ["light", 400]]) {
        await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
        await page.setViewportSize({ width, height: 800 });
        await page.evaluate(await readFile(axe, "utf8"));
        const { violations } = await page.evaluate(() => axe.run());
        assert.deepEqual(violations.filter(({ impact }) => ["serious", "critical"].includes(impact)).map(({ id, nodes }) => `${id}: ${nodes[0].html}`), [], name);
        const overflow = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
        assert.equal(overflow, 0, `${name} at ${width} px`);
        await screenshot(page, `${name}-${colorScheme}-${width}`);
    }
    await page.setViewportSize({ width: 1200, height: 800 });
}
