// A page that came over TLS writes and follows with a token: by /follow.js, and by an EventSource with a ticket.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { X509Certificate, createHash } from "node:crypto";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";

import { complaints, startTrustingBrowser } from "./browser.mjs";
import { Service } from "./service.mjs";

const run = promisify(execFile);

test("a page over TLS writes and follows with a token", async (t) => {
    const directory = await mkdtemp(join(tmpdir(), "duality-tls-"));
    t.after(() => rm(directory, { recursive: true }));
    const [certificate, key, tokens] = ["tls.pem", "tls.key", "tokens"].map((name) => join(directory, name));
    await run("openssl", ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate]);
    const made = await run(process.env.DUALITY_BINARY, ["--tokens", tokens, "token", "new", "page", "--scope", "read:persons,write:persons"]);
    const service = await Service.start(t, "--tls-cert", certificate, "--tls-key", key, "--tokens", tokens);

    const browser = await startTrustingBrowser(t, await hashOfKey(certificate));
    const page = await browser.newPage();
    const complained = complaints(page);
    await page.goto(`https://localhost:${service.port}/docs`);
    const seen = await page.evaluate(writeAndFollow, made.stdout.trim());
    assert.deepEqual(seen, { isSecure: true, byFollow: "first", byEventSource: "second" });
    assert.deepEqual(complained.filter((line) => !line.includes("401")), []);
});

/** What Chromium compares. */
async function hashOfKey(file) {
    const { publicKey } = new X509Certificate(await readFile(file));
    return createHash("sha256").update(publicKey.export({ type: "spki", format: "der" })).digest("base64");
}

/** Runs in the page. */
async function writeAndFollow(token) {
    const headers = { Authorization: `Bearer ${token}`, "Content-Type": "application/json" };
    const post = async (path, body) => {
        const response = await fetch(path, { method: "POST", headers, body: JSON.stringify(body) });
        if (!response.ok) throw new Error(`${path}: ${response.status} ${await response.text()}`);
        return response;
    };
    const { follow } = await import("/follow.js");
    let hear;
    const followed = new Promise((resolve) => (hear = resolve));
    const names = (persons) => Object.values(persons).map(({ name }) => name);
    const feed = follow("/person-events", (persons) => names(persons).includes("first") && hear("first"), { token });
    await post("/persons", { name: "first" });
    const byFollow = await followed;
    await feed.close();
    const { url } = await (await post("/-/tickets", { feed: "/person-events" })).json();
    const source = new EventSource(url);
    const heard = new Promise((resolve) => {
        source.onmessage = ({ data }) => data.includes("second") && resolve("second");
    });
    await new Promise((resolve) => (source.onopen = resolve));
    await post("/persons", { name: "second" });
    const byEventSource = await heard;
    source.close();
    return { isSecure: isSecureContext, byFollow, byEventSource };
}
