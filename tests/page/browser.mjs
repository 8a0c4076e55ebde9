// Chromium, and what its pages complain about.

import { createRequire } from "node:module";
import { join } from "node:path";

const require = createRequire(join(process.env.DUALITY_PAGE_TOOLS, "package.json"));
const { chromium } = require("playwright-core");

/** The text of axe-core, to be run in a page. */
export const axe = require.resolve("axe-core/axe.min.js");

const executablePath = process.env.DUALITY_CHROMIUM;

/**
 * Starts a browser that ends with the test. With `at`, what the documents call localhost:3000 is at this address.
 */
export async function startBrowser(test, at) {
    const browser = await chromium.launch({ executablePath, args: flags(at) });
    test.after(() => browser.close());
    return browser;
}

/** Starts a browser that trusts the certificate with this key, which nobody has signed: its SHA-256 in base64. */
export async function startTrustingBrowser(test, key) {
    const args = [`--ignore-certificate-errors-spki-list=${key}`];
    const browser = await chromium.launch({ executablePath, args });
    test.after(() => browser.close());
    return browser;
}

/** A browser that keeps what it stores in this directory. Close it yourself. */
export async function startPersistentBrowser(directory, at) {
    return chromium.launchPersistentContext(directory, { executablePath, args: flags(at) });
}

function flags(at) {
    return at === undefined ? [] : [`--host-resolver-rules=MAP localhost:3000 ${at}`];
}

/** Collects what a page reports: uncaught errors, and errors on its console. */
export function complaints(page) {
    const collected = [];
    page.on("pageerror", (error) => collected.push(`uncaught: ${error.stack ?? error}`));
    page.on("console", (message) => {
        if (message.type() === "error") collected.push(`console: ${message.text()} (${message.location().url})`);
    });
    return collected;
}

/** A failed request is on the console whatever the page does about it, so that it says nothing about the page. */
export function withoutNetworkErrors(collected) {
    return collected.filter((line) => !line.startsWith("console: Failed to load resource:"));
}

/** A picture for people to look at: target/page/NAME.png. */
export async function screenshot(page, name) {
    await page.screenshot({ path: join(process.env.DUALITY_SCREENSHOTS, `${name}.png`) });
}
