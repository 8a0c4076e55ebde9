/** A schema as a list of members, each with its type and its rules. */

import { element } from "/page/dom.js";
import { prose } from "./docs_prose.js";
import { choices, referenceName, resolved, rulesOf, typeOf } from "./docs_description.js";

/**
 * @param {any} schema
 * @param {string[]} around The names of the schemas that it is in: one that contains itself is shown once.
 */
export function schemaView(schema, around = []) {
    const several = choices(schema);
    if (several.length > 1) {
        return element("ul", { class: "members" }, several.map((choice) => element("li", {}, headOf(choice), inside(choice, around))));
    }
    const whole = resolved(schema) ?? {};
    const members = Object.entries(whole.properties ?? {});
    const rest = typeof whole.additionalProperties === "object" ? [["<key>", whole.additionalProperties]] : [];
    if (members.length + rest.length === 0) return element("p", {}, headOf(schema));
    const required = new Set(whole.required ?? []);
    const rows = [...members, ...rest].map(([name, member]) => element("li", {},
        element("code", {}, name), required.has(name) ? " " : "? ", headOf(member), inside(member, around)));
    return element("ul", { class: "members" }, rows);
}

function headOf(schema) {
    const name = referenceName(schema);
    const type = name === undefined ? typeOf(schema) : `${name}: ${typeOf(schema)}`;
    const rules = rulesOf(schema);
    const text = resolved(schema)?.description;
    return [
        element("code", { class: "type" }, type),
        rules === "" ? null : element("span", { class: "rule" }, ` ${rules}`),
        text === undefined ? null : element("span", { class: "text" }, " ", prose(text)),
    ];
}

/** The members of a member, if it has any. */
function inside(schema, around) {
    const name = referenceName(schema);
    if (name !== undefined && around.includes(name)) return null;
    const whole = resolved(schema) ?? {};
    const target = whole.type === "array" ? whole.items : schema;
    const inner = resolved(target) ?? {};
    const hasMembers = inner.properties !== undefined || typeof inner.additionalProperties === "object";
    const hasChoices = choices(target).some((choice) => resolved(choice)?.properties !== undefined);
    if (!hasMembers && !hasChoices) return null;
    return schemaView(target, [...around, name, referenceName(target)].filter((known) => known !== undefined));
}
