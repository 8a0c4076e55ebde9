// Prints a state whenever it changes: node consumer.mjs URL [--store FILE]
//
// A service with tokens gets the one in DUALITY_TOKEN: what is on a command line can be seen by others.

import { readFile, rename, writeFile } from "node:fs/promises";
import { parseArgs } from "node:util";
import { follow } from "../../web/follow.js";

const { positionals: [url], values } = parseArgs({ allowPositionals: true, options: { store: { type: "string" } } });
if (!url) {
    console.error("usage: node consumer.mjs http://localhost:3000/persons [--store FILE]");
    process.exit(2);
}

/** A store in a file. The new file takes the place of the old one at once, so that it is never half of one. */
const fileStore = (path) => ({
    load: async () => JSON.parse(await readFile(path, "utf8").catch(() => "null")),
    save: async (copy) => {
        await writeFile(`${path}.new`, JSON.stringify(copy));
        await rename(`${path}.new`, path);
    },
});

/** Without a valid token, there is nothing to wait for. */
function onError(error) {
    console.error(error.message);
    if (error.status !== 401) return;
    process.exitCode = 1;
    feed.close();
}

const feed = follow(url, undefined, { token: process.env.DUALITY_TOKEN, store: values.store && fileStore(values.store), onError });
for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => feed.close());

for await (const state of feed) {
    console.log(JSON.stringify({ id: feed.id, exact: feed.exact, state }));
}
