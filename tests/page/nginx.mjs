// nginx in front of the service, with its settings left as they are: it answers 502 while the service is away.

import { spawn } from "node:child_process";
import { chmod, mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { until } from "./until.mjs";

/** Starts an nginx that ends with the test, and gives its address. */
export async function startNginx(test, service) {
    const directory = await mkdtemp(join(tmpdir(), "duality-nginx-"));
    // nginx gives its files to a user of its own when root starts it.
    await chmod(directory, 0o755);
    const address = `127.0.0.1:${await freePort()}`;
    await writeFile(join(directory, "nginx.conf"), configuration(directory, address, service.address));
    const child = spawn("nginx", ["-e", join(directory, "error.log"), "-c", join(directory, "nginx.conf")], { stdio: "ignore" });
    const ended = new Promise((resolve) => child.once("exit", resolve));
    test.after(async () => {
        child.kill("SIGTERM");
        await ended;
        await rm(directory, { recursive: true });
    });
    await until("nginx answers", async () => (await fetch(`http://${address}/healthz`)).ok);
    return address;
}

function configuration(directory, address, upstream) {
    const temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    return `
        daemon off;
        pid ${directory}/nginx.pid;
        worker_processes 1;
        events {}
        http {
            access_log off;
            ${temporary.map((name) => `${name}_temp_path ${directory}/${name};`).join("\n")}
            server {
                listen ${address};
                location / { proxy_pass http://${upstream}; }
            }
        }
    `;
}

async function freePort() {
    const server = createServer();
    await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
    const { port } = server.address();
    await new Promise((resolve) => server.close(resolve));
    return port;
}
