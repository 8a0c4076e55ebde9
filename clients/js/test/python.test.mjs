// What the consumer in Python says of a catch-up that is cut, with a service that is played.

import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

const CONSUMER = fileURLToPath(new URL("../../python/consumer.py", import.meta.url));

const isThere = spawnSync("python3", ["-c", "import sys; sys.exit(sys.version_info < (3, 11))"]).status === 0;
const skip = !isThere && process.env.DUALITY_REQUIRE_CLIENTS !== "1" && "Python 3.11 is missing: consumer.py is NOT TESTED";

/** A service with this state. A stream has the first of these texts that is left, and is cut then; that of the last one stays. */
async function play(state, streams) {
    const server = createServer((request, response) => {
        if (request.url === "/persons") {
            response.writeHead(200, { "Content-Type": "application/json", "X-Epoch": "e", "X-Revision": "5" });
            response.end(JSON.stringify(state));
        } else {
            response.writeHead(200, { "Content-Type": "text/event-stream" });
            response.write(streams[0], () => streams.length > 1 && streams.shift() && response.destroy());
        }
    });
    await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
    return server;
}

/** The first lines that the consumer prints, as `id exact`. */
async function print(count, server, store) {
    const url = `http://127.0.0.1:${server.address().port}/persons`;
    const consumer = spawn("python3", [CONSUMER, url, "--store", store], { stdio: ["ignore", "pipe", "ignore"] });
    const ended = new Promise((resolve) => consumer.once("exit", resolve));
    const lines = [];
    for await (const line of createInterface({ input: consumer.stdout })) {
        const { id, exact } = JSON.parse(line);
        if (lines.push(`${id} ${exact}`) === count) break;
    }
    consumer.kill("SIGKILL");
    await ended;
    return lines;
}

test("half of a catch-up is not exact, neither after the connection is back nor after a restart", { skip }, async () => {
    const directory = mkdtempSync(join(tmpdir(), "duality-"));
    const store = join(directory, "persons.json");
    const half = 'data: {"1":null}\n\n';
    const streams = [half, ": nothing yet\n\n"];
    const server = await play({ 1: { name: "Ann" } }, streams);
    try {
        assert.deepEqual(await print(3, server, store), ["e.5 true", "e.5 false", "e.5 false"]);
        streams.splice(0, Infinity, 'data: {"2":{}}\nid: e.6\n\n');
        assert.deepEqual(await print(2, server, store), ["e.5 false", "e.6 true"]);
        assert.deepEqual(await print(1, server, store), ["e.6 true"]);
    } finally {
        server.closeAllConnections();
        server.close();
        rmSync(directory, { recursive: true });
    }
});

test("the empty state with which a stream begins leaves an exact copy exact", { skip }, async () => {
    const directory = mkdtempSync(join(tmpdir(), "duality-"));
    const server = await play({}, ["data: {}\n\n"]);
    try {
        assert.deepEqual(await print(2, server, join(directory, "persons.json")), ["e.5 true", "e.5 true"]);
    } finally {
        server.closeAllConnections();
        server.close();
        rmSync(directory, { recursive: true });
    }
});
