// The real service, and a proxy in front of it that cuts connections, goes silent, or answers with a 502.

import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, statSync } from "node:fs";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

/** How long something may take that should happen soon, in milliseconds. */
const DEADLINE = 30_000;

/** The binary of `DUALITY_BINARY`, or else the one that was built last. */
export function binary() {
    const age = (path) => statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0;
    const built = ["release", "debug"]
        .map((profile) => fileURLToPath(new URL(`../../../target/${profile}/duality`, import.meta.url)))
        .sort((one, other) => age(other) - age(one));
    return process.env.DUALITY_BINARY || built[0];
}

export class Service {
    #directory = mkdtempSync(join(tmpdir(), "duality-"));
    #database = join(this.#directory, "test.db");
    #settings;
    #process;
    #hasCopy = false;

    static async start(...settings) {
        const service = new Service();
        service.#settings = ["--heartbeat", "200ms", ...settings];
        await service.start();
        return service;
    }

    async start() {
        const options = ["--listen", "127.0.0.1:0", "--database", this.#database, ...this.#settings];
        this.#process = spawn(binary(), options, { stdio: ["ignore", "ignore", "pipe"] });
        const lines = createInterface({ input: this.#process.stderr });
        this.port = await new Promise((resolve, reject) => {
            const log = [];
            lines.on("line", (line) => {
                log.push(line);
                const port = /listening on http:\/\/127\.0\.0\.1:(\d+)/.exec(line)?.[1];
                if (port) resolve(Number(port));
            });
            lines.on("close", () => reject(new Error(`the service did not start:\n${log.join("\n")}`)));
        });
    }

    async kill() {
        const ended = new Promise((resolve) => this.#process.once("exit", resolve));
        this.#process.kill("SIGKILL");
        await ended;
    }

    async remove() {
        await this.kill();
        rmSync(this.#directory, { recursive: true });
    }

    backUp() {
        this.#run("backup", "--force", join(this.#directory, "copy.db"));
        this.#hasCopy = true;
    }

    /** Puts the last backup back, if there is one. The service must not be running. */
    restore() {
        if (this.#hasCopy) this.#run("restore", join(this.#directory, "copy.db"));
    }

    #run(...command) {
        const { status, stderr } = spawnSync(binary(), [...command, "--database", this.#database], { encoding: "utf8" });
        if (status !== 0) throw new Error(`${command[0]}: ${stderr}`);
    }

    async write(method, path, body) {
        const options = { method, headers: { "Content-Type": "application/json" }, body: body && JSON.stringify(body) };
        const response = await fetch(`http://127.0.0.1:${this.port}${path}`, options);
        await response.text();
        if (!response.ok) throw new Error(`${method} ${path}: ${response.status}`);
        return { revision: Number(response.headers.get("X-Revision")), location: response.headers.get("Location") };
    }

    /** The state of a path, null if it is not there, and its revision. */
    async get(path) {
        const response = await fetch(`http://127.0.0.1:${this.port}${path}`);
        const state = response.ok ? await response.json() : null;
        return { state, revision: Number(response.headers.get("X-Revision")) };
    }
}

export class Proxy {
    /** `forward`; `silent`: keeps connections and sends nothing; `refuse`: answers with a 502. */
    mode = "forward";
    /** After how many bytes to the client a connection is cut. */
    cutAfter = () => Infinity;
    /** The request lines of all connections. */
    requests = [];

    #server;
    #sockets = new Set();
    #held = undefined;

    static async start(service) {
        const proxy = new Proxy();
        proxy.#server = createServer((client) => proxy.#accept(client, service));
        await new Promise((resolve) => proxy.#server.listen(0, "127.0.0.1", resolve));
        proxy.url = `http://127.0.0.1:${proxy.#server.address().port}`;
        return proxy;
    }

    #accept(client, service) {
        const upstream = connect(service.port, "127.0.0.1");
        let left = this.cutAfter();
        for (const socket of [client, upstream]) {
            this.#sockets.add(socket);
            socket.on("error", () => {});
            socket.on("close", () => {
                this.#sockets.delete(socket);
                client.destroy();
                upstream.destroy();
            });
        }
        client.on("data", (data) => {
            for (const [line] of data.toString("latin1").matchAll(/^[A-Z]+ \/.*(?= HTTP)/gm)) this.requests.push(line);
            if (this.mode === "refuse") client.end("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            else if (this.mode === "forward") upstream.write(data);
        });
        const send = (data) => {
            const piece = quick(data).subarray(0, left);
            left -= piece.length;
            client.write(piece, () => left <= 0 && client.destroy());
        };
        upstream.on("data", (data) => {
            if (this.#held) this.#held.push(() => send(data));
            else if (this.mode === "forward") send(data);
        });
    }

    /** Keeps what comes until it is released. */
    hold() {
        this.#held = [];
    }

    release() {
        for (const send of this.#held) send();
        this.#held = undefined;
    }

    /** The requests for a path, with or without a query. */
    count(path) {
        return this.requests.filter((line) => new URL(line.split(" ")[1], this.url).pathname === path).length;
    }

    cut() {
        for (const socket of this.#sockets) socket.destroy();
    }

    close() {
        this.cut();
        this.#server.close();
    }
}

/** Clients wait for the time that the service tells them; 20 ms are enough here. The length stays the same. */
function quick(data) {
    const text = data.toString("latin1").replace(/(?<=^retry: )\d+(?=\n)/m, (time) => "20".padStart(time.length, "0"));
    return Buffer.from(text, "latin1");
}

/** Waits until the condition holds. */
export async function eventually(what, holds) {
    const end = Date.now() + DEADLINE;
    while (!(await holds())) {
        if (Date.now() > end) throw new Error(`not in time: ${what}`);
        await new Promise((resolve) => setTimeout(resolve, 5));
    }
}

/** Random numbers that are the same for the same seed (xorshift). */
export function random(seed) {
    let state = seed * 2654435761 + 1;
    return (below) => {
        state ^= state << 13;
        state ^= state >>> 17;
        state ^= state << 5;
        return (state >>> 0) % below;
    };
}
