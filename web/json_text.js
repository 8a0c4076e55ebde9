/** JSON is shown from its text: JavaScript would change long numbers. */

import { element } from "./dom.js";

/** A JSON text in colours: names, and what is deleted (`null`). At most `limit` characters are shown. */
export function coloured(text, limit = 20000) {
    const shown = text.slice(0, limit);
    const parts = [];
    let end = 0;
    for (const { 0: token, index } of shown.matchAll(/"(?:[^"\\]|\\.)*"|null/g)) {
        const kind = token === "null" ? "nothing" : shown[index + token.length] === ":" && "name";
        if (kind === false) continue;
        parts.push(shown.slice(end, index), element("span", { class: kind }, token));
        end = index + token.length;
    }
    return [...parts, shown.slice(end), shown === text ? "" : " …"];
}

function indented(text) {
    let depth = 0;
    return text.replace(/"(?:[^"\\]|\\.)*"|\{\}|\[\]|[{}[\],:]/g, (token) => {
        if (token === ":") return ": ";
        if (token === "}" || token === "]") depth -= 1;
        if (token === "{" || token === "[") depth += 1;
        const line = `\n${"  ".repeat(depth)}`;
        if (token === "}" || token === "]") return line + token;
        return token === "," || token === "{" || token === "[" ? token + line : token;
    });
}

export function jsonBlock(text, label) {
    return element("pre", { class: "json", tabindex: "0", role: "region", "aria-label": label }, coloured(indented(text)));
}

/** The members of an object, one a line; those that have changed are lit. */
export function members(text, isLit) {
    return indented(text).split(/\n(?= {2}"|\})/).map((part) => {
        const name = /^ {2}("(?:[^"\\]|\\.)*"):/.exec(part)?.[1];
        return element("span", { class: name !== undefined && isLit(JSON.parse(name)) ? "member lit" : "member" }, coloured(part));
    });
}
