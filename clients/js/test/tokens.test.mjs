// Feeds with a token: what they do when it is refused, and when there is another one.

import assert from "node:assert/strict";
import { execFileSync, spawn, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { follow, messages } from "../../../web/follow.js";
import { binary, eventually, Proxy, Service } from "./service.mjs";

const directory = mkdtempSync(join(tmpdir(), "duality-"));
const file = join(directory, "tokens");
let service, writer;

const task = (...words) => execFileSync(binary(), ["--tokens", file, "token", ...words], { encoding: "utf8" }).trim();

/** Makes a token. The service reads it a moment later. */
async function makeToken(name, scope = "read") {
    const token = task("new", name, "--scope", scope);
    const headers = { Accept: "application/json", Authorization: `Bearer ${token}` };
    const isInForce = async () => (await (await fetch(`http://127.0.0.1:${service.port}/`, { headers })).json()).token !== undefined;
    if (service) await eventually(`${name} is in force`, isInForce);
    return token;
}

before(async () => {
    writer = await makeToken("writer", "write,read");
    service = await Service.start("--tokens", file, "--poll-interval", "20ms");
});
after(async () => {
    await service.remove();
    rmSync(directory, { recursive: true });
});

async function create(name) {
    const headers = { "Content-Type": "application/json", Authorization: `Bearer ${writer}` };
    const response = await fetch(`http://127.0.0.1:${service.port}/persons`, { method: "POST", headers, body: JSON.stringify({ name }) });
    assert.equal(response.status, 201);
    return Number(response.headers.get("X-Revision"));
}

/** Runs with a feed through a proxy, and closes both. */
async function withFeed(path, options, use) {
    const proxy = await Proxy.start(service);
    const errors = [];
    const feed = follow(proxy.url + path, undefined, { onError: (error) => errors.push(error), ...options });
    try {
        await use({ feed, errors, proxy, url: proxy.url });
    } finally {
        await feed.close();
        proxy.close();
    }
}

const reaches = (feed, revision) => eventually(`the copy has revision ${revision}`, () => feed.exact && feed.revision >= revision);

test("a token that is taken away stops its feed with a 401, and another one lets it go on without a loss", async () => {
    for (const path of ["/persons", "/person-events", "/aggregates"]) {
        const name = `reader-of-${path.slice(1)}`;
        await withFeed(path, { token: await makeToken(name) }, async ({ feed, errors, proxy }) => {
            await reaches(feed, await create("Ann"));
            task("revoke", name);
            await eventually("the feed says so", () => errors.some(({ status }) => status === 401));
            const error = errors.find(({ status }) => status === 401);
            assert.equal(error.problem.type, "unauthorized");
            assert.match(error.message, /the token is unknown, or no longer valid/);
            const requests = proxy.requests.length;
            const revision = await create("Bob");
            feed.authorize(writer);
            await reaches(feed, revision);
            assert.equal(proxy.requests.length, requests + 1, "it goes on where it was, and has asked for nothing meanwhile");
            assert.equal(proxy.requests.filter((line) => line.includes("duality_")).length, 0, "no token is in an address");
        });
    }
});

test("a feed without a token waits for one, and takes it from the callback too", async () => {
    const revision = await create("Ann");
    await withFeed("/persons", {}, async ({ feed, errors }) => {
        await eventually("it is refused", () => errors.length === 1);
        assert.match(errors[0].message, /this needs a token/);
        feed.authorize(writer);
        await reaches(feed, revision);
        assert.equal(errors.length, 1);
    });
    const onError = ({ status }) => status === 401 && self.feed.authorize(writer);
    const self = {};
    await withFeed("/persons", { token: "duality_nonsense", onError }, async ({ feed }) => {
        self.feed = feed;
        await reaches(feed, revision);
    });
});

test("a function gives the token of each request", async () => {
    const tokens = ["duality_old", writer];
    const asked = [];
    const token = async () => {
        asked.push(tokens[0]);
        return tokens[0];
    };
    await withFeed("/persons", { token }, async ({ feed, errors }) => {
        await eventually("the first one is refused", () => errors.length === 1);
        tokens.shift();
        feed.authorize();
        await reaches(feed, await create("Ann"));
        assert.deepEqual(asked.slice(0, 2), ["duality_old", writer]);
    });
});

test("messages have the token, and what it may not read is a 403", async () => {
    const url = `http://127.0.0.1:${service.port}`;
    const revision = await create("Ann");
    for await (const { id } of messages(`${url}/person-events`, { token: writer })) {
        if (Number(id?.split(".")[1]) >= revision) break;
    }
    const token = await makeToken("customer", "read:carts");
    await assert.rejects(messages(`${url}/person-events`, { token }).next(), ({ status, problem }) => status === 403 && problem.scope === "read:persons");
});

const consumers = {
    "consumer.mjs": [process.execPath, fileURLToPath(new URL("../consumer.mjs", import.meta.url))],
    "consumer.py": ["python3", fileURLToPath(new URL("../../python/consumer.py", import.meta.url))],
};
const hasPython = spawnSync("python3", ["-c", "import sys; sys.exit(sys.version_info < (3, 11))"]).status === 0;

for (const [name, [program, ...words]] of Object.entries(consumers)) {
    const skip = name.endsWith(".py") && !hasPython && process.env.DUALITY_REQUIRE_CLIENTS !== "1" && "Python 3.11 is missing: NOT TESTED";
    test(`${name} has its token from the environment, and ends without a valid one`, { skip }, async () => {
        const url = `http://127.0.0.1:${service.port}/persons`;
        const start = (token) => spawn(program, [...words, url], { env: { ...process.env, DUALITY_TOKEN: token }, stdio: ["ignore", "pipe", "pipe"] });
        await create(name);
        const consumer = start(writer);
        let printed = "";
        consumer.stdout.on("data", (text) => { printed += text; });
        await eventually("it prints the state", () => printed.includes(`"${name}"`));
        consumer.kill("SIGKILL");
        const refused = start("duality_nonsense");
        let said = "";
        refused.stderr.on("data", (text) => { said += text; });
        const code = await new Promise((resolve) => refused.once("exit", resolve));
        assert.equal(code, 1);
        assert.match(said, /401/);
        assert.doesNotMatch(said, /nonsense/);
    });
}
