/** "Try it": a request with fields for its parameters, the curl line that does the same, and the response. */

import { button, copyButton, element, setText } from "/page/dom.js";
import { fetchWithToken, token } from "/page/token.js";
import { exampleOf, resolved } from "./docs_description.js";

/** How much of a response is shown, in characters. */
const SHOWN = 20_000;

/**
 * @param {{path: string, method: string, operation: any}} target
 */
export function callView({ path, method, operation }) {
    const parameters = (operation.parameters ?? []).map(resolved);
    const inputs = parameters.map(inputOf);
    const types = Object.keys(operation.responses["200"]?.content ?? {}).filter((type) => type !== "*/*");
    const accept = types.length > 1 ? element("select", {}, types.map((type) => element("option", {}, type))) : undefined;
    const [bodyType, content] = Object.entries(operation.requestBody?.content ?? {})[0] ?? [];
    const body = bodyType === undefined ? undefined : element("textarea", { spellcheck: "false", "aria-label": "Body" });
    if (body !== undefined) body.value = JSON.stringify(exampleOf(content.schema), null, 4);

    const request = () => requestOf({ path, method, inputs, accept: accept?.value, body: body?.value, bodyType });
    const curl = element("pre", {}, "");
    const showCurl = () => setText(curl, curlLine(request()));
    const answer = element("pre", { hidden: true, tabindex: "0", "aria-label": "Response" });
    let running;
    const send = button("Send", async () => {
        running?.abort();
        running = new AbortController();
        stop.hidden = false;
        await perform(request(), answer, running.signal);
        stop.hidden = true;
    }, { class: "main" });
    const stop = button("Stop", () => running?.abort(), { hidden: true });

    const fields = inputs.map(({ name, node }) => element("label", {}, element("code", {}, name), node));
    if (accept !== undefined) fields.push(element("label", {}, element("code", {}, "Accept"), accept));
    if (body !== undefined) fields.push(body);
    const view = element("div", { class: "call", oninput: showCurl, onchange: showCurl }, fields, curl,
        element("div", { class: "buttons" }, send, stop, copyButton("Copy curl", () => curlLine(request()))), answer);
    showCurl();
    return view;
}

function inputOf(parameter) {
    const { name, schema } = parameter;
    const example = parameter.in === "path" ? exampleOf(schema) : "";
    const values = resolved(schema)?.enum ?? [];
    const node = parameter.in === "path" && values.length > 0
        ? element("select", {}, values.map((value) => element("option", {}, value)))
        : element("input", { value: example, placeholder: parameter.required === true ? "required" : "" });
    return { name, place: parameter.in, isList: resolved(schema)?.type === "array", node };
}

/** The request that the fields describe. */
function requestOf({ path, method, inputs, accept, body, bodyType }) {
    const query = new URLSearchParams();
    const headers = {};
    let filled = path;
    for (const { name, place, isList, node } of inputs) {
        const value = node.value;
        if (place === "path") filled = filled.replace(`{${name}}`, encodeURIComponent(value));
        else if (value === "") continue;
        else if (place === "header") headers[name] = value;
        else for (const one of isList ? value.split(",") : [value]) query.append(name, one.trim());
    }
    if (accept !== undefined) headers.Accept = accept;
    if (body !== undefined && body !== "") headers["Content-Type"] = bodyType;
    const search = query.size === 0 ? "" : `?${query}`;
    return { url: `${location.origin}${filled}${search}`, method: method.toUpperCase(), headers, body: body === "" ? undefined : body };
}

/** A text as one argument of a shell. */
function quoted(text) {
    return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

function curlLine({ url, method, headers, body }) {
    const isStream = headers.Accept === "text/event-stream";
    const words = ["curl", isStream ? "-N" : undefined, method === "GET" ? undefined : `-X ${method}`];
    // The token itself is not shown.
    if (token()) words.push(`-H ${quoted("Authorization: Bearer <token>")}`);
    words.push(...Object.entries(headers).map(([name, value]) => `-H ${quoted(`${name}: ${value}`)}`));
    if (body !== undefined) words.push(`-d ${quoted(body.replaceAll(/\n\s*/g, ""))}`);
    return [...words, quoted(url)].filter((word) => word !== undefined).join(" ");
}

/** Sends a request, and shows the response as it arrives. */
async function perform({ url, method, headers, body }, answer, signal) {
    answer.hidden = false;
    answer.textContent = "…";
    try {
        const response = await fetchWithToken(url, { method, headers, body, signal });
        const lines = [...response.headers].map(([name, value]) => `${name}: ${value}`);
        const head = `${response.status} ${response.statusText}\n${lines.join("\n")}\n\n`;
        answer.textContent = head;
        const isJson = /json$/.test((response.headers.get("content-type") ?? "").split(";")[0]) && !/ndjson/.test(response.headers.get("content-type"));
        if (isJson) answer.textContent = head + pretty(await response.text()).slice(0, SHOWN);
        else await show(response, head, answer);
    } catch (error) {
        answer.textContent += signal.aborted ? "\n(stopped)" : `\n${error.message}`;
    }
}

/** Shows a body that may not end. */
async function show(response, head, answer) {
    const decoder = new TextDecoder();
    let text = "";
    for (let reader = response.body?.getReader(); reader !== undefined;) {
        const { done, value } = await reader.read();
        if (done) return;
        // Of a long stream, the last messages are shown.
        text = (text + decoder.decode(value, { stream: true })).slice(-SHOWN);
        answer.textContent = head + text;
    }
}

function pretty(text) {
    try {
        return JSON.stringify(JSON.parse(text), null, 4);
    } catch {
        return text;
    }
}
