// What the page says about its copies and sends from its forms, in cases that are rare and must not be wrong.

import assert from "node:assert/strict";
import { test } from "node:test";

import { complaints, startBrowser, withoutNetworkErrors } from "./browser.mjs";
import { Service } from "./service.mjs";
import { goTo } from "./views.mjs";
import { until } from "./until.mjs";

test("a copy that comes back from a revision it never had says that something is missing", async (t) => {
    const { service, page } = await open(t);
    await service.write("POST", "/persons", { name: "Ann" });
    await goTo(page, "#/feed/person-events");
    await page.getByText("equals GET /persons at revision 1").waitFor();
    await page.getByRole("button", { name: "Cut the connection" }).click();
    for (const name of ["Bob", "Cid"]) await service.write("POST", "/persons", { name });
    await page.getByLabel("Revision to come back from").fill("3");
    await page.getByRole("button", { name: "From revision" }).click();
    await page.getByText("The copy differs from GET /persons at revision 3.").first().waitFor();
    assert.equal(await revision(page), "3, something is missing");
    await page.getByRole("button", { name: "With nothing" }).click();
    await page.getByText("The copy equals GET /persons at revision 3.").first().waitFor();
    assert.equal(await revision(page), "3, exact");
});

test("a form sends only what was edited, and keeps the line breaks of a text", async (t) => {
    const { service, page, bodies } = await open(t);
    await service.write("POST", "/persons", { name: "Ann\nLee", city: "Rome" });
    await goTo(page, "#/persons/1");
    const form = page.getByRole("form", { name: "Change" });
    await form.getByLabel("city").fill("Oslo");
    await form.getByRole("button", { name: "Save" }).click();
    await until("the city is saved", async () => (await service.get("/persons/1")).city === "Oslo");
    assert.deepEqual(bodies, [{ city: "Oslo" }]);
    assert.equal((await service.get("/persons/1")).name, "Ann\nLee");
});

test("a form keeps a choice that it does not know, removes a member in an object, and has a member called key beside the key", async (t) => {
    const { page } = await open(t);
    const calls = await page.evaluate(async () => {
        const { Form } = await import("/page/form.js");
        const fields = [{ name: "key", kind: "text" }, { name: "size", kind: "choice", choices: ["S", "L"] }, { name: "address", kind: "json" }];
        const call = (order, values) => {
            const form = new Form({ fields, label: "Send", path: (key) => `/things/${key}`, changed() {}, ...order });
            const controls = [...form.element.querySelectorAll("input, select, textarea")];
            values.forEach((value, index) => { if (value !== undefined) controls[index].value = value; });
            return form.call();
        };
        const values = { key: "a", size: "XL", address: { city: "Rome", street: "Via Appia", floor: 2 } };
        return [
            call({ method: "PATCH", isPatch: true, values }, [undefined, undefined, `{"city":"Rome","floor":3}`]),
            call({ method: "PUT", hasKey: true }, ["1", "b"]),
        ];
    });
    assert.deepEqual(calls.map(({ body }) => JSON.parse(body)), [{ address: { street: null, floor: 3 } }, { key: "b" }]);
    assert.equal(calls[1].path, "/things/1");
});

test("an aggregate whose collection the page has not loaded is followed nevertheless", async (t) => {
    const { service, page } = await open(t, "--shared-bodies", "0");
    // It loads the first one.
    const cart = (await service.write("POST", "/carts")).headers.get("Location");
    await service.write("POST", `${cart}/add-item`, { item: "apple" });
    await page.goto(`${service.url}/#${cart}`);
    await page.reload();
    const state = page.getByRole("region", { name: "JSON" });
    await state.getByText("apple").waitFor();
    await service.write("POST", `${cart}/add-item`, { item: "pear" });
    await state.getByText("pear").waitFor();
});

test("the states over time are those that were, even if changes are only known as a catch-up", async (t) => {
    const { service, page } = await open(t);
    await service.write("POST", "/persons", { name: "Ann", city: "Rome" });
    const answers = [
        { events: [{ revision: 1, patch: { name: "Ann", city: "Rome" } }], cursor: "e.1" },
        { events: [{ patch: null }, { patch: { name: "Bob" } }], cursor: "e.8" },
        { events: [{ patch: null }], cursor: "e.9" },
    ];
    await page.route(/\/persons\/1\/events\?limit/, (route) => route.fulfill({ json: answers.shift() ?? { events: [], cursor: "e.9" } }));
    await goTo(page, "#/persons/1");
    const steps = page.getByRole("list", { name: "Steps" }).getByRole("listitem");
    await until("the state at revision 1 is shown", async () => (await steps.count()) === 1);
    for (const [index, city] of ["Oslo", "Bonn"].entries()) {
        await service.write("PATCH", "/persons/1", { city });
        await until("there is one more step", async () => (await steps.count()) === index + 2);
    }
    assert.deepEqual((await steps.allInnerTexts()).map((text) => text.split(/\s+/).slice(0, 2).join(" ")), ["9 deleted", "8 as", "1 created"]);
    await steps.getByRole("button", { name: "Look at revision 8" }).click();
    await until("the state at revision 8 is shown", async () => (await page.getByRole("region", { name: "revision 8", exact: true }).innerText()).includes("Bob"));
    assert.deepEqual(JSON.parse(await page.getByRole("region", { name: "revision 8", exact: true }).innerText()), { name: "Bob" });
});

test("the page waits as long as a full service says", async (t) => {
    const service = await Service.start(t);
    const page = await (await startBrowser(t)).newPage();
    let requests = 0;
    await page.route(/\/events(\?|$)/, (route) => {
        requests += 1;
        return route.fulfill({ contentType: "text/event-stream", body: "retry: 60000\n\n" });
    });
    await page.clock.install();
    await page.goto(`${service.url}/`);
    await page.getByText("Not connected: the connection was cut").waitFor();
    await page.clock.runFor(59_000);
    assert.equal(requests, 1);
    await page.clock.runFor(40_000);
    await until("the page asks again", () => requests === 2);
});

test("the journal goes on after the database was replaced by another one", async (t) => {
    const { service, page, collected } = await open(t);
    const cart = (await service.write("POST", "/carts")).headers.get("Location");
    await service.write("POST", `${cart}/add-item`, { item: "apple" });
    await goTo(page, "#/journal");
    const events = page.getByRole("list", { name: "Events" });
    await events.getByText("apple").waitFor();
    await service.kill();
    await service.forget();
    await service.start();
    const other = (await service.write("POST", "/carts")).headers.get("Location");
    await service.write("POST", `${other}/add-item`, { item: "pear" });
    await events.getByText("pear").waitFor();
    assert.equal(await events.getByText("apple").count(), 0);
    assert.equal(await page.getByText("Not connected").count(), 0);
    assert.deepEqual(withoutNetworkErrors(collected), []);
});

test("an address without a name shows the first collection", async (t) => {
    const { page, collected } = await open(t);
    await goTo(page, "#/feed");
    await goTo(page, "#/collection");
    await page.getByRole("heading", { level: 1, name: "persons" }).waitFor();
    assert.deepEqual(collected, []);
});

/** The page of a new service, and the bodies of its patches. */
async function open(test, ...flags) {
    const service = await Service.start(test, ...flags);
    const page = await (await startBrowser(test)).newPage();
    const collected = complaints(page);
    const bodies = [];
    page.on("request", (request) => request.method() === "PATCH" && bodies.push(request.postDataJSON()));
    await page.goto(`${service.url}/`);
    await page.locator("h1:not(:empty)").waitFor();
    return { service, page, collected, bodies };
}

/** What the page says about the revision of the copy. */
function revision(page) {
    return page.locator("dl div", { has: page.locator("dt", { hasText: /^revision$/ }) }).locator("dd").innerText();
}
