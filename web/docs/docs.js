/** The description of the service for people: all operations by tag, with what they take and return. */

import { element } from "/page/dom.js";
import { callView } from "./docs_call_view.js";
import { forgetButton, whenRefused } from "/page/token.js";
import { choices, exampleOf, load, resolved, rulesOf, typeOf } from "./docs_description.js";
import { prose } from "./docs_prose.js";
import { schemaView } from "./docs_schema_view.js";

const main = document.getElementById("operations");

try {
    const description = await load();
    document.getElementById("title").textContent = `${description.info.title} ${description.info.version}`;
    document.getElementById("message").replaceWith(element("p", { class: "remark" }, prose(description.info.description)));
    document.querySelector("header .title").append(forgetButton());
    const operations = Object.entries(description.paths).flatMap(([path, methods]) =>
        Object.entries(methods).map(([method, operation]) => ({ path, method, operation })));
    for (const tag of description.tags) show(tag, operations.filter(({ operation }) => operation.tags[0] === tag.name));
    openTarget();
    addEventListener("hashchange", openTarget);
} catch (error) {
    document.getElementById("message").textContent = `The description cannot be shown: ${error.message}`;
}

whenRefused(askForToken);

/** Puts the form for a token before the operations, unless it is there. */
function askForToken(form) {
    if (main.querySelector(".token")) return;
    main.prepend(form);
    form.querySelector("input").focus();
}

function show(tag, operations) {
    const id = `tag-${tag.name}`;
    const remark = tag.description === undefined ? null : element("p", { class: "remark" }, prose(tag.description));
    main.append(element("section", { "aria-labelledby": id }, element("h2", { id }, tag.name), remark, operations.map(operationView)));
    const links = operations.map(({ path, method, operation }) => element("li", {}, element("a", { href: `#${operation.operationId}` },
        element("span", { class: "method" }, method), element("span", { class: "word" }, path))));
    document.getElementById("navigation").append(element("h2", {}, tag.name), element("ul", {}, links));
}

/** Opens the operation that the address names. */
function openTarget() {
    const node = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (node?.localName !== "details") return;
    node.open = true;
    node.scrollIntoView();
    node.querySelector("summary").focus();
}

/** One operation. Its inside is made when it is opened. */
function operationView(target) {
    const { path, method, operation } = target;
    const summary = element("summary", {}, element("span", { class: "method" }, method), element("code", {}, path),
        element("span", { class: "about" }, operation.summary));
    const node = element("details", { class: "operation", id: operation.operationId, ontoggle: () => {
        if (node.open && node.childElementCount === 1) node.append(bodyView(target));
    } }, summary);
    return node;
}

function bodyView(target) {
    const { operation } = target;
    return element("div", { class: "body" },
        operation.description === undefined ? null : element("p", { class: "remark" }, prose(operation.description)),
        parametersView((operation.parameters ?? []).map(resolved)),
        requestView(operation.requestBody),
        Object.entries(operation.responses).filter(([status]) => status < "4").map(successView),
        problemsView(Object.entries(operation.responses).filter(([status]) => status >= "4")),
        element("div", {}, element("h3", {}, "Try it"), callView(target)));
}

function table(heads, rows) {
    const head = element("thead", {}, element("tr", {}, heads.map((text) => element("th", { scope: "col" }, text))));
    const body = rows.map((cells) => element("tr", {}, cells.map((cell) => element("td", {}, cell))));
    return element("div", { class: "wide", tabindex: "0" }, element("table", {}, head, element("tbody", {}, body)));
}

function parametersView(parameters) {
    if (parameters.length === 0) return null;
    const rows = parameters.map((parameter) => [
        element("code", {}, parameter.name),
        parameter.required === true ? `${parameter.in}, required` : parameter.in,
        [typeOf(parameter.schema), rulesOf(parameter.schema)].filter((text) => text !== "").join("; "),
        prose(parameter.description ?? ""),
    ]);
    return element("div", {}, element("h3", {}, "Parameters"), table(["name", "in", "type", "about"], rows));
}

function requestView(body) {
    if (body === undefined) return null;
    const [[, { schema }]] = Object.entries(body.content);
    const types = Object.keys(body.content).join(", ");
    return element("div", {}, element("h3", {}, body.required ? "Body" : "Body, which may be absent"),
        element("p", { class: "remark" }, types), schemaView(schema), exampleView(exampleOf(schema)));
}

function successView([status, reference]) {
    const response = resolved(reference);
    const bodies = Object.entries(response.content ?? {}).map(([type, { schema, example }]) => [
        element("h4", {}, element("code", {}, type)), schemaView(schema), example === undefined ? null : exampleView(example),
    ]);
    const headers = Object.keys(response.headers ?? {}).join(", ");
    return element("div", {}, element("h3", {}, `${status} `, prose(response.description)),
        headers === "" ? null : element("p", { class: "remark" }, `Headers: ${headers}`), bodies);
}

function exampleView(example) {
    return element("pre", { tabindex: "0", "aria-label": "Example" }, typeof example === "string" ? example : JSON.stringify(example, null, 4));
}

function problemsView(responses) {
    const rows = responses.flatMap(([status, reference]) => {
        const { schema, examples } = resolved(reference).content["application/problem+json"];
        return choices(schema).map((choice) => {
            const slug = resolved(choice).properties.type.const;
            const { type, title, status: _, detail, ...members } = examples[slug].value;
            return [status, element("code", {}, slug), detail, Object.keys(members).join(", ")];
        });
    });
    return element("div", {}, element("h3", {}, "Problems (application/problem+json)"), table(["status", "type", "such as", "members"], rows));
}
