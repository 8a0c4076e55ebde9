/** The writes that a collection takes, as forms. */

import { Form } from "./form.js";
import { bodySchema, fieldsOf, operation } from "./schema.js";
import { segment } from "./api.js";

/** The form that creates an aggregate; `undefined` for a collection that is derived. */
export function createForm({ name, kind, state, create }, changed) {
    if (kind === "derived") return undefined;
    const template = create ? state : `${state}/{key}`;
    const method = create ? "POST" : "PUT";
    return new Form({
        ...bodyOf(template, method), label: "Create", title: `New in ${name}`, method, isMain: true, changed, hasKey: !create,
        path: (key) => template.replace("{key}", () => segment(key)),
    });
}

/** The forms of one aggregate: a patch for a document, every command for an event-sourced one. */
export function aggregateForms({ kind, state, commands = [] }, key, values, changed) {
    const path = (template) => () => template.replace("{key}", () => segment(key));
    if (kind !== "state") {
        return commands.map(({ name, path: template }) => {
            const body = bodyOf(template, "POST");
            const label = name.charAt(0).toUpperCase() + name.slice(1).replaceAll("-", " ");
            return new Form({ ...body, label, title: body.hasBody === false ? undefined : label, method: "POST", path: path(template), changed });
        });
    }
    const template = `${state}/{key}`;
    const { schema = bodyOf(template, "PUT").schema } = bodyOf(template, "PATCH");
    const isPatch = fieldsOf(schema) !== undefined;
    return [new Form({ label: "Save", title: "Change", method: "PATCH", path: path(template), contentType: "application/merge-patch+json", schema, isPatch, values: isPatch ? values : undefined, isMain: true, changed })];
}

/** What is known of the body of a request: a command without fields has none. */
function bodyOf(path, method) {
    const known = operation(path, method);
    return { schema: bodySchema(path, method), hasBody: known === undefined || known.requestBody !== undefined };
}
