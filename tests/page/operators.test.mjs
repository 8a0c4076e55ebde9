// Where operators have an address of their own, the page for clients links to no views of theirs.

import assert from "node:assert/strict";
import { test } from "node:test";

import { complaints, startBrowser } from "./browser.mjs";
import { Service } from "./service.mjs";
import { furnish } from "./views.mjs";

test("the page for clients links neither to projections nor to the figures of the service, that for operators to both", async (t) => {
    const service = await Service.start(t, "--operate-on", "127.0.0.1:0");
    await furnish(service);
    const operators = /operators are served on (http:\/\/[\d.:]+)/.exec(service.log)[1];
    const browser = await startBrowser(t);
    for (const [url, theirs] of [[service.url, 0], [operators, 1]]) {
        const page = await browser.newPage();
        const complained = complaints(page);
        await page.goto(url);
        await page.getByText("Ann").first().waitFor();
        for (const name of ["Projections", "Everything live"]) {
            assert.equal(await page.getByRole("link", { name, exact: false }).count(), theirs, `${name} at ${url}`);
        }
        assert.deepEqual(complained, []);
    }
});
