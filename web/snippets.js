/** The lines that do the same as a view: with curl, in JavaScript and in Python. */

import { copyButton, element, uniqueId } from "./dom.js";

/** The language that was chosen last, on all views. */
let chosen = "curl";

/**
 * What a view does, as a request.
 * @typedef {{ path: string, method?: string, body?: string, accept?: string, headers?: Record<string, string>, isStream?: boolean, statePath?: string }} Call
 */

/**
 * A panel with a tab for each language.
 * @param {() => Call} read The request at the moment: a snippet has the cursor of now.
 */
export function snippets(read, title = "The same by hand") {
    const languages = { curl, JavaScript: javascript, Python: python };
    const panel = element("pre", { class: "mono", role: "tabpanel", id: uniqueId(), tabindex: "0" });
    const tabs = Object.keys(languages).map((name) => element("button", {
        type: "button", role: "tab", id: uniqueId(), "aria-controls": panel.id, onclick: () => choose(name),
    }, name));
    const list = element("div", { role: "tablist", "aria-label": title, onkeydown: (event) => step(event, tabs) }, tabs);
    const choose = (name) => {
        chosen = name;
        for (const tab of tabs) {
            const isChosen = tab.textContent === name;
            tab.setAttribute("aria-selected", String(isChosen));
            tab.tabIndex = isChosen ? 0 : -1;
            if (isChosen) panel.setAttribute("aria-labelledby", tab.id);
        }
        panel.textContent = languages[name](read());
    };
    choose(chosen);
    return {
        element: element("div", { class: "snippets" }, element("div", { class: "bar" }, list, copyButton("Copy", () => panel.textContent)), panel),
        refresh: () => choose(chosen),
    };
}

function step(event, tabs) {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (by === undefined) return;
    const next = tabs[(tabs.indexOf(event.target) + by + tabs.length) % tabs.length];
    next.focus();
    next.click();
}

function address(path) {
    return new URL(path, location.href).href;
}

/** As one word of a shell, whatever is in it. */
export function shellWord(text) {
    return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

/** A curl command. */
export function curl({ path, method = "GET", body, accept, headers = {}, isStream = false }) {
    const words = ["curl", isStream ? "-sN" : "-s"];
    if (method !== "GET" && !(method === "POST" && body !== undefined)) words.push("-X", method);
    if (body !== undefined) words.push("--json", shellWord(body));
    if (accept !== undefined) words.push("-H", shellWord(`Accept: ${accept}`));
    for (const [name, value] of Object.entries(headers)) words.push("-H", shellWord(`${name}: ${value}`));
    words.push(shellWord(address(path)));
    return words.join(" ");
}

function javascript(call) {
    const url = JSON.stringify(address(call.path));
    if (call.isStream) {
        const module = JSON.stringify(address("/follow.js"));
        const stream = call.headers?.["Last-Event-ID"] === undefined ? "{}" : `{ lastEventId: ${JSON.stringify(call.headers["Last-Event-ID"])} }`;
        if (call.statePath === undefined) {
            return `import { messages } from ${module};\n\nfor await (const { id, data } of messages(${url}, ${stream})) {\n    console.log(id, JSON.parse(data));\n}`;
        }
        return `import { follow } from ${module};\n\nfollow(${url}, (state, { revision, exact }) => {\n    console.log(revision, exact, state);\n});`;
    }
    const options = [];
    if (call.method !== undefined && call.method !== "GET") options.push(`method: "${call.method}"`);
    const headers = { ...(call.accept && { Accept: call.accept }), ...call.headers, ...(call.body !== undefined && { "Content-Type": "application/json" }) };
    if (Object.keys(headers).length > 0) options.push(`headers: ${JSON.stringify(headers)}`);
    if (call.body !== undefined) options.push(`body: ${JSON.stringify(call.body)}`);
    const rest = options.length === 0 ? "" : `, {\n    ${options.join(",\n    ")},\n}`;
    return `const response = await fetch(${url}${rest});\nconsole.log(response.headers.get("X-Revision"), await response.${call.accept === "text/csv" ? "text" : "json"}());`;
}

function python(call) {
    const url = JSON.stringify(address(call.path));
    const headers = { ...(call.accept && { Accept: call.accept }), ...call.headers };
    if (call.isStream) {
        return `import httpx, json\nfrom httpx_sse import connect_sse\n\nwith httpx.Client(timeout=60) as http:\n`
            + `    with connect_sse(http, "GET", ${url}${pythonHeaders(headers)}) as feed:\n`
            + `        for message in feed.iter_sse():\n            print(message.id, json.loads(message.data))`;
    }
    if (call.body !== undefined) headers["Content-Type"] = "application/json";
    const body = call.body === undefined ? "" : `, content=${JSON.stringify(call.body)}.encode()`;
    const result = call.method === "DELETE" ? "status_code" : call.accept === "text/csv" ? "text" : "json()";
    return `import httpx\n\nresponse = httpx.request("${call.method ?? "GET"}", ${url}${pythonHeaders(headers)}${body})\nprint(response.headers["X-Revision"], response.${result})`;
}

function pythonHeaders(headers) {
    return Object.keys(headers).length === 0 ? "" : `, headers=${JSON.stringify(headers)}`;
}
