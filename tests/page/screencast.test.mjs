// What somebody does in the first minutes with the page, in steps; each leaves a screenshot in target/page. The service
// is killed and started again in the middle.

import assert from "node:assert/strict";
import { test } from "node:test";
import { isDeepStrictEqual } from "node:util";

import { complaints, screenshot, startBrowser, withoutNetworkErrors } from "./browser.mjs";
import { Service } from "./service.mjs";
import { goTo, shownState } from "./views.mjs";
import { until } from "./until.mjs";

test("the first minutes with the page", async (t) => {
    const service = await Service.start(t);
    const page = await (await startBrowser(t)).newPage({ viewport: { width: 1280, height: 800 }, permissions: ["clipboard-read", "clipboard-write"] });
    const collected = complaints(page);
    let number = 0;
    let hasFailed = false;
    // Each step continues the one before.
    const step = (name, run) => t.test(name, { skip: hasFailed }, async () => {
        hasFailed = true;
        await run();
        number += 1;
        await screenshot(page, `${String(number).padStart(2, "0")}-${name.replace(/[^a-z0-9]+/gi, "-")}`);
        assert.deepEqual(withoutNetworkErrors(collected), []);
        hasFailed = false;
    });

    await step("an empty service: the page says how to begin", async () => {
        await page.goto(`${service.url}/`);
        await page.getByRole("heading", { level: 1, name: "persons" }).waitFor();
        await page.getByText("No persons yet.").waitFor();
        await revisionIs(page, 0);
    });

    await step("a form creates persons, and state and events show the same revision", async () => {
        for (const [index, [name, city]] of [["Ann", "Rome"], ["Bob", "Rome"], ["Cid", "Oslo"]].entries()) {
            await create(page, { name, city });
            await revisionIs(page, index + 1);
        }
        await row(page, "1").getByText("Ann").waitFor();
        await message(page, "1").getByText(`"Ann"`).waitFor();
        assert.deepEqual(await shownState(page), await service.get("/persons"));
    });

    await step("what the service rejects stands at the field, in its words", async () => {
        await create(page, { name: "Dan", spouse: "Ann" });
        await page.getByRole("form", { name: "New in persons" }).getByText(/^spouse: /).waitFor();
        assert.equal(await page.getByLabel("spouse").getAttribute("aria-invalid"), "true");
        await revisionIs(page, 3);
    });

    await step("a change lights up in the state, and its message stands beside it", async () => {
        await service.write("PATCH", "/persons/2", { city: "Oslo" });
        await row(page, "2").locator(".lit").first().waitFor();
        await message(page, "4").getByText(`"Oslo"`).waitFor();
    });

    await step("the derived locations have the same revision", async () => {
        await goTo(page, "#/locations");
        await row(page, "Oslo").getByText("2", { exact: true }).waitFor();
        assert.deepEqual(await shownState(page), { Rome: { total: 1 }, Oslo: { total: 2 } });
    });

    await step("the connection is cut, and what is written meanwhile comes with the last id", async () => {
        await goTo(page, "#/feed/person-events");
        await says(page, "equals GET /persons at revision 4");
        await page.getByRole("button", { name: "Cut the connection" }).click();
        await page.getByText("The connection was cut after").waitFor();
        await service.write("POST", "/persons", { name: "Dora" });
        await service.write("DELETE", "/persons/1");
        await page.getByRole("button", { name: "With the last id" }).click();
        await page.getByText(/You were brought up to date by the log: 2 messages/).waitFor();
        await says(page, "equals GET /persons at revision 6");
    });

    for (const [button, how] of [["From revision", "the log"], ["With nonsense", "a reset"], ["From another epoch", "a reset"]]) {
        await step(`it comes back: ${button}`, async () => {
            if (button === "From revision") await page.getByLabel("Revision to come back from").fill("1");
            await page.getByRole("button", { name: button, exact: true }).click();
            await page.getByText(new RegExp(`brought up to date by ${how}`)).last().waitFor();
            await says(page, "equals GET /persons at revision 6");
        });
    }

    await step("the service is killed and starts again: the feed goes on", async () => {
        await service.kill();
        await page.getByText("Not connected").first().waitFor();
        await service.start();
        await service.write("POST", "/persons", { name: "Eve" });
        await page.getByRole("list", { name: "Messages" }).getByText(`"Eve"`).waitFor();
        await page.getByRole("button", { name: "Compare with GET" }).click();
        await says(page, "equals GET /persons at revision 7");
    });

    await step("the collection has gone on as well", async () => {
        await goTo(page, "#/persons");
        await until("the state is shown", async () => isDeepStrictEqual(await shownState(page), await service.get("/persons")));
        await revisionIs(page, 7);
    });

    const items = ["apple", "pear", "plum"];
    await step("a cart is opened and filled by forms that are made from the schema of each command", async () => {
        await goTo(page, "#/carts");
        await page.locator("main").getByRole("button", { name: "Create", exact: true }).click();
        await page.locator("main tbody").getByRole("link").first().click();
        const form = page.getByRole("form", { name: "Add item" });
        for (const [index, item] of items.entries()) {
            await form.getByLabel("item").fill(item);
            await form.getByRole("button").click();
            await page.getByRole("button", { name: `Look at version ${index + 2}` }).waitFor();
        }
        await form.getByLabel("item").fill("apple");
        await form.getByRole("button").click();
        await form.getByText("apple has already been added").waitFor();
        const [cart] = Object.values(await service.get("/carts"));
        await until("the state is shown", async () => isDeepStrictEqual(JSON.parse(await page.getByRole("region", { name: "State", exact: true }).locator("pre.json").textContent()), cart));
    });

    await step("the cart at an earlier version, and the merge patch between two", async () => {
        await page.getByRole("slider", { name: "To version" }).fill("3");
        await page.getByRole("slider", { name: "From version" }).fill("2");
        const key = Object.keys(await service.get("/carts"))[0];
        for (const version of [2, 3]) {
            const expected = await service.get(`/carts/${key}?version=${version}`);
            await until(`version ${version} is shown`, async () => isDeepStrictEqual(JSON.parse(await page.getByRole("region", { name: new RegExp(`version ${version}$`) }).textContent()), expected));
        }
        await page.getByRole("region", { name: "The merge patch between them" }).getByText(`"pear"`).waitFor();
    });

    await step("a projection is rebuilt, and one sees how far it is", async () => {
        await openCarts(service, 600);
        await goTo(page, "#/projections");
        const generation = (await projection(service)).generation;
        await page.evaluate(watchProgress);
        // A rebuild of so little can be over before the page has looked.
        await until("the progress is shown", async () => {
            await page.getByRole("button", { name: "Rebuild cart_items" }).click();
            await until("the rebuild is over", async () => (await projection(service)).building === undefined);
            return page.evaluate(() => globalThis.progressSeen);
        });
        await until("its table is the new one", async () => (await projection(service)).generation > generation);
        await page.getByRole("row", { name: /cart_items/ }).getByText("live").waitFor();
    });

    await step("the journal has what happened", async () => {
        await goTo(page, "#/journal");
        await page.getByText("ItemAdded").first().waitFor();
    });

    await step("everything live", async () => {
        await goTo(page, "#/service");
        await page.getByRole("heading", { level: 2 }).first().waitFor();
    });
});

test("with the keyboard alone: a person is created, a feed is cut and resumed, and the focus is always visible", async (t) => {
    const service = await Service.start(t);
    const page = await (await startBrowser(t)).newPage({ viewport: { width: 1280, height: 800 } });
    const collected = complaints(page);
    await page.goto(`${service.url}/`);
    await page.getByRole("form", { name: "New in persons" }).waitFor();

    await page.keyboard.press("Tab");
    assert.equal(await focused(page), "Skip to the content");
    await tabTo(page, "name");
    await page.keyboard.type("Ann");
    await page.keyboard.press("Enter");
    await row(page, "1").waitFor();
    await page.keyboard.type("Bob");
    await page.keyboard.press("Enter");
    await row(page, "2").waitFor();
    await tabTo(page, "1", "Shift+Tab");
    await page.keyboard.press("ArrowDown");
    await until("the focus is on the second row", async () => (await focused(page)) === "2");

    await tabTo(page, /^Cut and come back/);
    await page.keyboard.press("Enter");
    await says(page, "equals GET /persons at revision 2");
    await tabTo(page, "Cut the connection");
    await page.keyboard.press("Enter");
    await service.write("DELETE", "/persons/1");
    await tabTo(page, "With the last id");
    await page.keyboard.press("Enter");
    await says(page, "equals GET /persons at revision 3");
    await screenshot(page, "keyboard");
    assert.deepEqual(collected, []);
});

/** Moves the focus until it is on what is called so, and checks that each stop on the way can be seen. */
async function tabTo(page, name, key = "Tab") {
    const passed = [];
    for (let steps = 0; steps < 80; steps++) {
        await page.keyboard.press(key);
        passed.push(await focused(page));
        assert.ok(await page.evaluate(isFocusVisible), `the focus on ${passed.at(-1)} is visible`);
        if (name instanceof RegExp ? name.test(passed.at(-1)) : passed.at(-1) === name) return;
    }
    throw new Error(`the focus does not reach ${name}: ${passed}`);
}

/** What is called focused: its label, its name for people who do not see, or its text. */
function focused(page) {
    return page.evaluate(() => {
        const node = document.activeElement;
        return (node.getAttribute("aria-label") ?? node.labels?.[0]?.firstChild.textContent ?? node.textContent).trim();
    });
}

/** Runs in the page. */
function isFocusVisible() {
    const node = document.activeElement;
    if (node === document.body) return true;
    const { outlineStyle, outlineWidth } = getComputedStyle(node);
    return outlineStyle !== "none" && Number.parseFloat(outlineWidth) >= 1;
}

/** Runs in the page: notes whether the progress of a rebuild was ever shown. */
function watchProgress() {
    globalThis.progressSeen = false;
    const look = () => {
        globalThis.progressSeen ||= document.querySelector("progress:not([hidden])") !== null;
    };
    new MutationObserver(look).observe(document.querySelector("main"), { subtree: true, attributes: true, childList: true });
}

async function projection(service) {
    const { projections } = await service.get("/projections");
    return projections.find(({ name }) => name === "cart_items");
}

async function openCarts(service, count) {
    let left = count;
    await Promise.all(Array.from({ length: 32 }, async () => {
        while (left-- > 0) {
            const cart = (await service.write("POST", "/carts")).headers.get("Location");
            await service.write("POST", `${cart}/add-item`, { item: `item ${left % 50}` });
        }
    }));
}

async function create(page, values) {
    const form = page.getByRole("form", { name: "New in persons" });
    for (const [name, value] of Object.entries(values)) await form.getByLabel(name).fill(value);
    await form.getByRole("button", { name: "Create" }).click();
}

/** The revision that stands large at the top. */
async function revisionIs(page, revision) {
    await until(`revision ${revision}`, async () => (await page.getByTestId("revision").textContent()) === String(revision));
}

function row(page, key) {
    return page.getByRole("row").filter({ has: page.getByRole("rowheader", { name: key, exact: true }) });
}

function message(page, revision) {
    return page.getByRole("listitem").filter({ has: page.getByRole("button", { name: revision, exact: true }) });
}

/** Waits until the comparison says so. */
async function says(page, text) {
    await page.getByRole("status", { name: "Comparison with GET" }).getByText(text).waitFor();
}
