/**
 * JSON as it is shown: from its text, so that numbers which JavaScript would change are shown as they are.
 */

import { element } from "./dom.js";

const TOKEN = /"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*|true|false|null|[{}[\],:]/g;

/**
 * A JSON text in colours: names, and what is deleted (`null`).
 * @param {string} text
 * @param {{ indent?: boolean, spaced?: boolean, limit?: number }} [options] With `indent`, one member a line; with `spaced`, a space after a
 * colon; at most `limit` characters.
 */
export function coloured(text, { indent = false, spaced = indent, limit = 20000 } = {}) {
    const fragment = document.createDocumentFragment();
    let plain = "";
    const flush = () => {
        if (plain !== "") fragment.append(plain);
        plain = "";
    };
    const shown = text.length > limit ? text.slice(0, limit) : text;
    for (const { token, kind, before } of tokens(shown, indent, spaced)) {
        plain += before;
        if (kind === "other") {
            plain += token;
        } else {
            flush();
            fragment.append(element("span", { class: kind }, token));
        }
    }
    if (shown !== text) plain += " …";
    flush();
    return fragment;
}

/** One member a line, from the text. */
export function indented(text) {
    let result = "";
    for (const { token, before } of tokens(text, true)) result += before + token;
    return result;
}

/** The tokens of a JSON text, each with its kind and with the space before it. */
function* tokens(text, indent, spaced = indent) {
    const all = text.match(TOKEN) ?? [];
    let depth = 0;
    let before = "";
    for (let at = 0; at < all.length; at += 1) {
        const token = all[at];
        const next = all[at + 1];
        const opens = token === "{" || token === "[";
        const closes = token === "}" || token === "]";
        const isEmpty = closes && (all[at - 1] === "{" || all[at - 1] === "[");
        if (closes) depth -= 1;
        if (closes && indent && !isEmpty) before = newLine(depth);
        yield { token, kind: kindOf(token, next), before };
        if (opens) depth += 1;
        before = "";
        if (spaced && token === ":") before = " ";
        if (indent && (token === "," || opens) && next !== "}" && next !== "]") before = newLine(depth);
    }
}

function newLine(depth) {
    return `\n${"  ".repeat(Math.max(0, depth))}`;
}

function kindOf(token, next) {
    if (token.startsWith("\"")) return next === ":" ? "name" : "other";
    return token === "null" ? "nothing" : "other";
}

/** A block of JSON, one member a line. */
export function jsonBlock(text, label) {
    return element("pre", { class: "json", tabindex: "0", role: "region", "aria-label": label }, coloured(text, { indent: true }));
}

/** The members of an object, one a line; those that have changed are lit. */
export function members(text, isLit) {
    const fragment = document.createDocumentFragment();
    let lines = [];
    const flush = () => {
        const name = /^ {2}("(?:[^"\\]|\\.)*"):/.exec(lines[0] ?? "");
        const content = lines.map((line) => [/^ */.exec(line)[0], coloured(line, { spaced: true }), "\n"]);
        fragment.append(element("span", { class: name !== null && isLit(JSON.parse(name[1])) ? "member lit" : "member" }, content));
        lines = [];
    };
    for (const line of indented(text).split("\n")) {
        if (lines.length > 0 && /^( {2}"|})/.test(line)) flush();
        lines.push(line);
    }
    flush();
    return fragment;
}
