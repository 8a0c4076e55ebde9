// Passes connections on to the service until its test wants silence, as after a sleep in which a router has forgotten
// them: those that were open stay open and bring nothing, new ones work.

import { connect, createServer } from "node:net";

export async function startForwarder(test, service) {
    const open = new Set();
    const server = createServer((client) => {
        const upstream = connect({ host: "127.0.0.1", port: service.port });
        const pair = [client, upstream];
        open.add(pair);
        for (const socket of pair) socket.on("error", () => {}).on("close", () => open.delete(pair));
        client.pipe(upstream).pipe(client);
    });
    await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
    test.after(() => {
        for (const socket of silenced) socket.destroy();
        for (const socket of [...open].flat()) socket.destroy();
        server.close();
    });
    const silenced = [];
    return {
        url: `http://127.0.0.1:${server.address().port}`,
        /** From now on, what is open brings nothing. */
        silence() {
            for (const [client, upstream] of open) {
                client.unpipe(upstream);
                upstream.unpipe(client);
                silenced.push(client, upstream);
            }
            open.clear();
        },
    };
}
