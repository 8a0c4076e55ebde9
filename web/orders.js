/** The writes that a collection takes, as forms. */

import { Form } from "./form.js";
import { bodySchema, fieldsOf } from "./schema.js";
import { segment } from "./api.js";

/** The form that creates an aggregate; none if it is derived. */
export function createForm({ name, kind, state, create }, changed) {
    if (kind === "derived") return undefined;
    const template = create ? state : `${state}/{key}`;
    return form(template, { label: "Create", title: `New in ${name}`, method: create ? "POST" : "PUT", isMain: true, changed, hasKey: !create });
}

/** The forms of one aggregate: a patch for a document, every command for an event-sourced one. */
export function aggregateForms({ kind, state, commands = [] }, key, values, changed) {
    if (kind === "derived") return [];
    if (kind === "state") return [form(`${state}/{key}`, { label: "Save", title: "Change", method: "PATCH", contentType: "application/merge-patch+json", values, isMain: true, changed }, key)];
    return commands.map(({ name, path }) => {
        const label = name.charAt(0).toUpperCase() + name.slice(1).replaceAll("-", " ");
        return form(path, { label, title: label, method: "POST", changed }, key);
    });
}

function form(template, order, known) {
    const fields = fieldsOf(bodySchema(template, order.method));
    // Without a schema, people write the patch as JSON.
    const isPatch = order.values !== undefined && fields !== undefined;
    return new Form({ ...order, fields, isPatch, title: fields?.length === 0 ? undefined : order.title, path: (key) => template.replace("{key}", () => segment(known ?? key)) });
}
