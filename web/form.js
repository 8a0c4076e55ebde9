/** Forms for requests, made from the schemas of their bodies. What the service refuses stands at the field. */

import { announce, element, labelled, uniqueId } from "./dom.js";
import { request } from "./api.js";
import { difference, isObject, member } from "./patch.js";

/** A number goes into the request as it was typed: JavaScript would change long ones. */
const JSON_NUMBER = /^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?$/;

/** Where a form has the key: a member may have that name too. */
const KEY = Symbol("key");

export class Form {
    /** With `isPatch`, the form sends what differs from `values`. */
    constructor(order) {
        const { label, title, isMain, hasKey, fields } = order;
        this.order = order;
        this.inputs = new Map();
        this.problem = element("p", { class: "problem", role: "alert" });
        this.submit = element("button", { class: isMain ? "main" : undefined, type: "submit" }, label);
        this.isJson = fields === undefined;
        const shown = [...(hasKey ? [{ name: "key", kind: "text", isRequired: true, isKey: true }] : []), ...(fields ?? [{ name: "JSON", kind: "json", isRequired: true }])];
        const changed = () => order.changed(this);
        this.element = element("form", { novalidate: true, "aria-label": title ?? label, onsubmit: (event) => this.#send(event), oninput: changed, onfocusin: changed },
            title && element("h3", {}, title),
            element("div", { class: "fields" }, shown.map((field) => this.#field(field)), element("div", { class: "field end" }, this.submit)), this.problem);
    }

    #field(field) {
        const { name, kind, hint, isRequired } = field;
        const value = this.#text(field);
        const input = inputOf(field, value);
        const error = element("span", { class: "problem", id: uniqueId() });
        const at = field.isKey ? KEY : name;
        input.addEventListener("input", () => this.#setProblem(at, ""));
        this.inputs.set(at, { field, input, error, text: show(input, value) });
        const words = element("span", {}, name, isRequired || this.order.isPatch ? null : element("span", { class: "soft" }, " optional"));
        return element("div", { class: kind === "json" ? "field wide" : "field", title: hint }, labelled(words, input), error);
    }

    #text({ name, kind }) {
        const { values } = this.order;
        const value = member(values, name);
        if (value === undefined || value === null) return "";
        return kind === "text" && typeof value === "string" ? value : JSON.stringify(value, null, kind === "json" ? 2 : 0);
    }

    /** Takes a newer state, except in fields that are being edited. */
    update(values) {
        if (!this.order.isPatch) return;
        this.order.values = values;
        for (const entry of this.inputs.values()) {
            const text = this.#text(entry.field);
            entry.text = entry.input.value === entry.text ? show(entry.input, text) : text;
        }
    }

    #body() {
        const { isPatch, fields } = this.order;
        if (fields?.length === 0) return undefined;
        if (this.isJson) return this.inputs.get("JSON").input.value.trim() || "{}";
        const members = [];
        for (const { field, input: { value }, text } of this.inputs.values()) {
            if (field.isKey || (isPatch && value === text)) continue;
            // An empty field is left out, and removed by a patch.
            const isGiven = value !== "" || (field.isRequired && field.kind === "text");
            const json = isGiven ? jsonOf(field, value, isPatch ? text : "") : isPatch ? "null" : undefined;
            if (json !== undefined) members.push(`${JSON.stringify(field.name)}:${json}`);
        }
        return `{${members.join(",")}}`;
    }

    #path() {
        return this.order.path(this.inputs.get(KEY)?.input.value ?? "");
    }

    /** The request, for a snippet; an empty form gives an example. */
    call() {
        const { method, fields = [] } = this.order;
        const isEmpty = fields.length > 0 && [...this.inputs.values()].every(({ input }) => input.value === "");
        const members = fields.filter(({ isRequired }) => isRequired).map(({ name, example }) => [name, example]);
        return { path: this.#path(), method, body: isEmpty ? JSON.stringify(Object.fromEntries(members)) : this.#body() };
    }

    async #send(event) {
        event.preventDefault();
        for (const name of this.inputs.keys()) this.#setProblem(name, "");
        this.problem.textContent = "";
        this.submit.disabled = true;
        const { method, contentType, label, isPatch } = this.order;
        const sent = [...this.inputs.values()].map(({ input }) => input.value);
        const answer = await request(this.#path(), { method, body: this.#body(), contentType });
        this.submit.disabled = false;
        if (!answer.ok) return this.#refuse(answer.problem);
        announce(`${label}: done`);
        if (!isPatch) this.#reset(sent);
    }

    /** Keeps what was typed meanwhile. */
    #reset(sent) {
        const done = [...this.inputs.values()].filter(({ input }, at) => input.value === sent[at]);
        for (const { input, text } of done) input.value = text;
        if (done.length === sent.length) done[0]?.input.focus();
    }

    #refuse({ title, detail, member: name = "" }) {
        const found = [name, name.split(/[.[]/)[0], name === "key" && KEY].find((one) => this.inputs.has(one));
        if (found === undefined) {
            this.problem.textContent = `${title}: ${detail}`;
            return;
        }
        this.#setProblem(found, detail);
        this.inputs.get(found).input.focus();
        announce(detail);
    }

    #setProblem(name, text) {
        const { input, error } = this.inputs.get(name);
        error.textContent = text;
        input.setAttribute("aria-invalid", String(text !== ""));
        input.setAttribute("aria-describedby", error.id);
    }
}

function inputOf({ name, kind, choices, isRequired }, value) {
    const attributes = { name, required: isRequired, autocomplete: "off", spellcheck: "false" };
    if (kind === "json") return element("textarea", { ...attributes, rows: "3", class: "mono", placeholder: "{}" });
    if (kind === "number") return element("input", { ...attributes, inputmode: "numeric", class: "mono" });
    // A line of its own would lose the others.
    if (kind === "text") return element(/[\r\n]/.test(value) ? "textarea" : "input", attributes);
    const options = choices.map((choice) => element("option", { value: JSON.stringify(choice) }, String(choice)));
    return element("select", attributes, element("option", { value: "" }, "–"), options);
}

/** Shows a text that may be none of the choices. Returns what the control makes of it. */
function show(input, text) {
    if (input.options && [...input.options].every(({ value }) => value !== text)) input.append(element("option", { value: text }, text));
    input.value = text;
    return input.value;
}

/**
 * A value as JSON; what is no number is sent as text, so that the service says what it expected. An object in the place of
 * another is a patch: a member that is left out would stay.
 */
function jsonOf({ kind }, value, before) {
    try {
        const [from, to] = [before, value].map((text) => JSON.parse(text));
        if (kind === "json" && isObject(from) && isObject(to)) return JSON.stringify(difference(from, to));
    } catch {
        // What is no JSON has no members.
    }
    return kind === "text" || (kind === "number" && !JSON_NUMBER.test(value.trim())) ? JSON.stringify(value) : value.trim();
}
