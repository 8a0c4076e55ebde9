// What is in the package.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

const here = fileURLToPath(new URL("..", import.meta.url));
const root = fileURLToPath(new URL("../../..", import.meta.url));

test("the package has the module with its types and licences, and can be imported", () => {
    const directory = mkdtempSync(join(tmpdir(), "duality-package-"));
    const run = (...command) => execFileSync(command[0], command.slice(1), { cwd: directory, encoding: "utf8" });
    try {
        const [{ filename, files }] = JSON.parse(run("npm", "pack", here, "--json", "--silent"));
        const names = files.map(({ path }) => path).sort();
        assert.deepEqual(names, ["LICENSE-APACHE", "LICENSE-MIT", "README.md", "follow.d.ts", "follow.js", "follow_tabs.js", "package.json"]);
        run("tar", "-xf", filename);
        assert.equal(readFileSync(join(directory, "package/follow.js"), "utf8"), readFileSync(join(root, "web/follow.js"), "utf8"));
        run("mkdir", "node_modules");
        run("mv", "package", "node_modules/duality-follow");
        writeFileSync(join(directory, "use.mjs"), 'import { mergePatch } from "duality-follow"; console.log(mergePatch({}, { a: 1 }).a);');
        assert.equal(run("node", "use.mjs"), "1\n");
    } finally {
        rmSync(directory, { recursive: true });
    }
});

test("the package has the version and the licence of the service", () => {
    const manifest = readFileSync(join(root, "Cargo.toml"), "utf8");
    const { version, license } = JSON.parse(readFileSync(join(here, "package.json"), "utf8"));
    for (const [name, value] of Object.entries({ version, license })) assert.match(manifest, new RegExp(`^${name} = "${value}"$`, "m"));
});
