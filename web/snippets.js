/** The lines that do the same as a view: with curl, in JavaScript and in Python. */

import { copyButton, element, uniqueId } from "./dom.js";
import { token } from "./token.js";

const INTERVAL = 1000;

let chosen = "curl";

/** A panel with a tab for each language. `read` gives the request, with the cursor of now. */
export function snippets(read, title = "By hand") {
    const languages = { curl, JavaScript: javascript, Python: python };
    const panel = element("pre", { role: "tabpanel", id: uniqueId(), tabindex: "0" });
    const tabs = Object.keys(languages).map((name) => element("button", { type: "button", role: "tab", id: uniqueId(), "aria-controls": panel.id, onclick: () => choose(name) }, name));
    const step = ({ key, target }) => {
        const by = { ArrowRight: 1, ArrowLeft: -1 }[key];
        if (by === undefined) return;
        const next = tabs.at((tabs.indexOf(target) + by) % tabs.length);
        next.focus();
        next.click();
    };
    const choose = (name) => {
        chosen = name;
        for (const tab of tabs) {
            const isChosen = tab.textContent === name;
            tab.setAttribute("aria-selected", String(isChosen));
            tab.tabIndex = isChosen ? 0 : -1;
            if (isChosen) panel.setAttribute("aria-labelledby", tab.id);
        }
        panel.textContent = languages[name]({ method: "GET", ...read() });
    };
    choose(chosen);
    let refreshed = 0;
    const bar = element("div", { class: "bar" }, element("div", { role: "tablist", "aria-label": title, onkeydown: step }, tabs), copyButton("Copy", () => panel.textContent));
    const refresh = () => choose(chosen);
    // It does not change under the pointer while messages pour in.
    const refreshSometimes = () => {
        if (Date.now() - refreshed < INTERVAL) return;
        refreshed = Date.now();
        refresh();
    };
    return { element: element("div", { class: "snippets" }, bar, panel), refresh, refreshSometimes };
}

function address(path) {
    return new URL(path, location.href).href;
}

export function shellWord(text) {
    return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

/** What stands for the token, which is not shown. */
const TOKEN = "<token>";

function headersOf({ lastId, body }) {
    return { ...(token() && { Authorization: `Bearer ${TOKEN}` }), ...(lastId && { "Last-Event-ID": lastId }), ...(body !== undefined && { "Content-Type": "application/json" }) };
}

export function curl({ method = "GET", body, ...call }) {
    const words = ["curl", call.isFeed || call.isStream ? "-sN" : "-s"];
    if (method !== (body === undefined ? "GET" : "POST")) words.push("-X", method);
    if (body !== undefined) words.push("--json", shellWord(body));
    for (const [name, value] of Object.entries(headersOf(call))) words.push("-H", shellWord(`${name}: ${value}`));
    return [...words, shellWord(address(call.path))].join(" ");
}

function javascript(call) {
    const url = JSON.stringify(address(call.path));
    const follow = JSON.stringify(address("/follow.js"));
    const rights = token() && `token: "${TOKEN}"`;
    if (call.isFeed) return `import { follow } from ${follow};\n\nfollow(${url}, (state, { revision, exact }) => {\n    console.log(revision, exact, state);\n}${rights && `, { ${rights} }`});`;
    if (call.isStream) return `import { messages } from ${follow};\n\nfor await (const { id, data } of messages(${url}, { lastEventId: "${call.lastId}"${rights && `, ${rights}`} })) {\n    console.log(id, JSON.parse(data));\n}`;
    const { method, body } = call;
    const options = JSON.stringify({ method, headers: headersOf(call), body });
    return `const response = await fetch(${url}${method === "GET" ? "" : `, ${options}`});\nconsole.log(response.status, await response.text());`;
}

function python(call) {
    const url = JSON.stringify(address(call.path));
    const headers = JSON.stringify(headersOf(call));
    if (call.isFeed || call.isStream) {
        return `import httpx, json\nfrom httpx_sse import connect_sse\n\nwith httpx.Client(timeout=60) as http:\n`
            + `    with connect_sse(http, "GET", ${url}, headers=${headers}) as feed:\n`
            + `        for message in feed.iter_sse():\n            print(message.id, json.loads(message.data))`;
    }
    const content = call.body === undefined ? "" : `, content=${JSON.stringify(call.body)}.encode()`;
    return `import httpx\n\nresponse = httpx.request("${call.method}", ${url}, headers=${headers}${content})\nprint(response.status_code, response.text)`;
}
