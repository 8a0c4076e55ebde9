// The service under test: a process with a database of its own, which can be killed and started again.

import { spawn } from "node:child_process";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

export class Service {
    #binary = process.env.DUALITY_BINARY;
    #flags;
    #child = null;
    #log = [];
    port = 0;

    constructor(directory, flags) {
        this.directory = directory;
        this.#flags = flags;
    }

    /** Starts a service that ends with the test. */
    static async start(test, ...flags) {
        const directory = await mkdtemp(join(tmpdir(), "duality-page-"));
        const service = new Service(directory, flags);
        test.after(async () => {
            await service.kill();
            await rm(directory, { recursive: true });
        });
        await service.start();
        return service;
    }

    get address() {
        return `127.0.0.1:${this.port}`;
    }

    get url() {
        return `http://${this.address}`;
    }

    get isRunning() {
        return this.#child !== null;
    }

    /** What it has written to its log since it was first started. */
    get log() {
        return this.#log.join("\n");
    }

    /** Starts it, and again at the same address: the first time on a free port. */
    async start() {
        const flags = ["--listen", this.address, "--database", join(this.directory, "test.db"), ...this.#flags];
        const child = spawn(this.#binary, flags, { stdio: ["ignore", "ignore", "pipe"] });
        this.#child = child;
        await new Promise((resolve, reject) => {
            createInterface(child.stderr).on("line", (line) => {
                this.#log.push(line);
                const port = /listening on https?:\/\/127\.0\.0\.1:(\d+)/.exec(line)?.[1];
                if (port === undefined) return;
                this.port = Number(port);
                resolve();
            });
            child.on("error", reject);
            child.on("exit", (code, signal) => reject(new Error(`the service ended (${code ?? signal}):\n${this.log}`)));
        });
    }

    /** kill -9. */
    async kill() {
        const child = this.#child;
        if (child === null) return;
        this.#child = null;
        const ended = new Promise((resolve) => child.once("exit", resolve));
        if (child.exitCode === null && child.signalCode === null) {
            child.kill("SIGKILL");
            await ended;
        }
    }

    async restart() {
        await this.kill();
        await this.start();
    }

    /** Removes the database of a killed service. */
    async forget() {
        for (const name of await readdir(this.directory)) {
            if (name.startsWith("test.db")) await rm(join(this.directory, name), { recursive: true });
        }
    }

    /** The JSON that it answers to a GET. */
    async get(path, headers = { Accept: "application/json" }) {
        const response = await fetch(this.url + path, { headers });
        if (!response.ok) throw new Error(`GET ${path}: ${response.status} ${await response.text()}`);
        return response.json();
    }

    /** Sends a write, and gives the response once it is a success. */
    async write(method, path, body, token) {
        const headers = { "Content-Type": "application/json", ...(token && { Authorization: `Bearer ${token}` }) };
        const response = await fetch(this.url + path, { method, headers, body: body && JSON.stringify(body) });
        if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${await response.text()}`);
        return response;
    }

    /** A metric, by its name with its labels. */
    async metric(name) {
        const text = await (await fetch(`${this.url}/metrics`)).text();
        const line = text.split("\n").find((line) => line.startsWith(`${name} `));
        if (line === undefined) throw new Error(`there is no metric ${name}`);
        return Number(line.slice(name.length + 1));
    }
}
