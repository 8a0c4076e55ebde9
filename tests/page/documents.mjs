// The JavaScript in the README and in docs/, as it stands there.

import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";

const root = join(import.meta.dirname, "../..");

/**
 * @typedef {object} Block
 * @property {string} name where it stands, such as `README.md:134`
 * @property {string} document
 * @property {"js" | "html"} language
 * @property {string} text
 * @property {"library" | "program" | "page" | "script" | "part"} kind how it is run: see `kindOf`
 */

/** @returns {Block[]} */
export function blocks() {
    const documents = ["README.md", ...readdirSync(join(root, "docs")).filter((name) => name.endsWith(".md")).map((name) => `docs/${name}`)];
    return documents.flatMap((document) => blocksOf(document, readFileSync(join(root, document), "utf8")));
}

/** @returns {Block[]} */
export function blocksOf(document, markdown) {
    return [...markdown.matchAll(/^( *)```(js|mjs|javascript|ts|typescript|html)\b[^\n]*\n(.*?)^\1```$/gms)].map((match) => {
        const line = markdown.slice(0, match.index).split("\n").length;
        const indentation = new RegExp(`^${match[1]}`, "gm");
        const text = match[3].replace(indentation, "");
        return { name: `${document}:${line}`, document, language: match[2], text, kind: kindOf(match[2], text) };
    });
}

/**
 * A block that begins with a file name, as in `// copy.mjs`, is a program for Node; with a path of this repository, it is a
 * part of that file, which has tests of its own. One that only declares functions is
 * for the other blocks of its document. Another one is a module script in somebody's page, or the page itself.
 */
function kindOf(language, text) {
    if (language === "html") return "page";
    if (/^\/\/ clients\/\S+\n/.test(text)) return "part";
    if (/^\/\/ \S+\.mjs\n/.test(text)) return "program";
    const declarations = text.split("\n").filter((line) => /^\S/.test(line) && line !== "}" && !line.startsWith("//"));
    if (declarations.every((line) => /^(export )?(async )?function\*? \w+\(.*\{$/.test(line))) return "library";
    return "script";
}
