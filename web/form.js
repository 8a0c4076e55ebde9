/** Forms for requests, made from the schemas of their bodies. What the service refuses stands at the field. */

import { announce, element, uniqueId } from "./dom.js";
import { request } from "./api.js";
import { fieldsOf } from "./schema.js";
import { member } from "./patch.js";

/** A number in JSON. It goes into the request as it was typed, because JavaScript would change long ones. */
const JSON_NUMBER = /^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?$/;

/**
 * What a form sends.
 * @typedef {{ label: string, title?: string, method: string, path: () => string, contentType?: string, schema?: any, hasBody?: boolean,
 *     values?: any, isPatch?: boolean, isMain?: boolean, done?: (answer: import("./api.js").Answer, form: Form) => void, changed?: () => void, keyField?: string }} Order
 */

export class Form {
    /** @param {Order} order */
    constructor(order) {
        this.order = order;
        this.inputs = new Map();
        this.problem = element("p", { class: "problem", role: "alert" });
        this.submit = element("button", { class: order.isMain ? "main" : undefined, type: "submit" }, order.label);
        const fields = this.#fields();
        this.element = element("form", { novalidate: true, "aria-label": order.title ?? order.label, onsubmit: (event) => this.#send(event), oninput: () => order.changed?.() },
            order.title ? element("h3", {}, order.title) : null,
            element("div", { class: "fields" }, fields, element("div", { class: "field end" }, this.submit)), this.problem);
    }

    #fields() {
        const { order } = this;
        const keyField = order.keyField === undefined ? [] : [{ name: order.keyField, kind: "text", isRequired: true, hint: "", isKey: true }];
        if (order.hasBody === false) return keyField.map((field) => this.#field(field));
        const fields = fieldsOf(order.schema);
        this.isJson = fields === undefined;
        const shown = fields ?? [{ name: "JSON", kind: "json", isRequired: false, hint: "" }];
        return [...keyField, ...shown].map((field) => this.#field(field));
    }

    #field(field) {
        const id = uniqueId();
        const input = inputOf(field, id);
        const error = element("span", { class: "problem", id: `${id}-problem` });
        const text = this.#text(field);
        input.value = text;
        input.addEventListener("input", () => this.#clear(field.name));
        this.inputs.set(field.name, { field, input, error, text });
        const label = element("label", { for: id, title: field.hint || undefined }, field.name, field.isRequired ? null : element("small", {}, " optional"));
        return element("div", { class: field.kind === "json" ? "field wide" : "field" }, label, input, error);
    }

    /** The value of a field before anybody edits it. */
    #text(field) {
        const { values } = this.order;
        const value = this.isJson && field.kind === "json" ? values : member(values, field.name);
        if (value === undefined || value === null) return "";
        return field.kind === "text" && typeof value === "string" ? value : JSON.stringify(value, null, field.kind === "json" ? 2 : 0);
    }

    /** Takes a newer state, except in fields that are being edited. */
    update(values) {
        if (this.order.values === undefined) return;
        this.order.values = values;
        for (const entry of this.inputs.values()) {
            const text = this.#text(entry.field);
            if (entry.input.value === entry.text) entry.input.value = text;
            entry.text = text;
        }
    }

    /** The body as JSON text, for the request and for the snippet. */
    body() {
        if (this.order.hasBody === false) return undefined;
        if (this.isJson) return this.inputs.get("JSON").input.value.trim() || "{}";
        const members = [];
        for (const { field, input, text } of this.inputs.values()) {
            if (field.isKey) continue;
            const isUnchanged = input.value === text;
            if (this.order.isPatch && isUnchanged) continue;
            // An empty text is left out, or removed by a patch: an empty text that is meant can be sent as JSON.
            const isEmpty = input.value === "";
            if (isEmpty && !this.order.isPatch && !(field.isRequired && field.kind === "text")) continue;
            members.push(`${JSON.stringify(field.name)}:${isEmpty && this.order.isPatch && !field.isRequired ? "null" : jsonOf(field, input.value)}`);
        }
        return `{${members.join(",")}}`;
    }

    /** The value of the field for the key. */
    key() {
        return this.inputs.get(this.order.keyField)?.input.value ?? "";
    }

    async #send(event) {
        event.preventDefault();
        for (const name of this.inputs.keys()) this.#clear(name);
        this.problem.textContent = "";
        this.submit.disabled = true;
        const { method, path, contentType } = this.order;
        const answer = await request(path(this), { method, body: this.body(), contentType });
        this.submit.disabled = false;
        if (!answer.ok) {
            this.#refuse(answer.problem);
            return;
        }
        announce(`${this.order.label}: done`);
        this.order.done?.(answer, this);
    }

    /** Empties the form for the next one. */
    reset() {
        for (const { input, text } of this.inputs.values()) input.value = text;
        this.inputs.values().next().value?.input.focus();
        this.order.changed?.();
    }

    #refuse(problem) {
        const name = String(problem.member ?? "").split(/[.[]/)[0];
        const entry = this.inputs.get(name);
        const isAtField = entry !== undefined && problem.member !== undefined;
        if (!isAtField) {
            this.problem.textContent = `${problem.title}: ${problem.detail}`;
            if (this.isJson) this.inputs.get("JSON")?.input.focus();
            return;
        }
        entry.error.textContent = problem.detail;
        entry.input.setAttribute("aria-invalid", "true");
        entry.input.setAttribute("aria-describedby", entry.error.id);
        entry.input.focus();
        announce(problem.detail);
    }

    #clear(name) {
        const { input, error } = this.inputs.get(name);
        error.textContent = "";
        input.removeAttribute("aria-invalid");
        input.removeAttribute("aria-describedby");
    }
}

function inputOf(field, id) {
    const common = { id, name: field.name, required: field.isRequired, autocomplete: "off", spellcheck: "false" };
    if (field.kind === "json") return element("textarea", { ...common, rows: "3", class: "mono", placeholder: "{}" });
    if (field.kind === "number") return element("input", { ...common, inputmode: "numeric", class: "mono" });
    if (field.kind === "boolean" || field.kind === "choice") {
        const choices = field.kind === "boolean" ? [true, false] : field.choices;
        const options = choices.map((choice) => element("option", { value: JSON.stringify(choice) }, String(choice)));
        return element("select", common, element("option", { value: "" }, "–"), options);
    }
    return element("input", common);
}

/** A value as JSON; what is no number is sent as text, so that the service says what it expected. */
function jsonOf(field, value) {
    if (field.kind === "text") return JSON.stringify(value);
    if (field.kind === "number") return JSON_NUMBER.test(value.trim()) ? value.trim() : JSON.stringify(value);
    if (field.kind === "json") return value.trim() || "null";
    return value === "" ? "null" : value;
}
