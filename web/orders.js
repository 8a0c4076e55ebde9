/** The writes that a collection takes, as forms. */

import { Form } from "./form.js";
import { bodySchema, fieldsOf, hasOperation, needsBody } from "./schema.js";
import { segment } from "./api.js";

/** The form that creates an aggregate; `undefined` for a collection that is derived. */
export function createForm(page, collection, { changed }) {
    const template = `${collection.state}/{key}`;
    if (collection.kind === "derived") return undefined;
    const chooses = !collection.create;
    const path = chooses ? template : collection.state;
    const method = chooses ? "PUT" : "POST";
    if (chooses && hasOperation(template, "put") === false) return undefined;
    const form = new Form({
        label: "Create", method, isMain: true, changed, keyField: chooses ? "key" : undefined,
        title: `New in ${collection.name}`,
        path: (self) => (chooses ? `${collection.state}/${segment(self.key())}` : collection.state),
        schema: bodySchema(path, method),
        hasBody: needsBody(path, method) ?? collection.kind !== "event-sourced",
        done: (_answer, self) => self.reset(),
    });
    form.path = form.order.path;
    form.example = form.order.hasBody === false ? undefined : exampleOf(form.order.schema);
    return form;
}

/** The forms of one aggregate: a patch for a document, every command for an event-sourced one. */
export function aggregateForms(collection, key, state, done) {
    const path = `${collection.state}/${segment(key)}`;
    if (collection.kind === "state") {
        const template = `${collection.state}/{key}`;
        const schema = bodySchema(template, "patch") ?? bodySchema(template, "put");
        return [new Form({
            label: "Save", title: "Change", method: "PATCH", path: () => path, contentType: "application/merge-patch+json",
            schema, isPatch: fieldsOf(schema) !== undefined, values: fieldsOf(schema) === undefined ? undefined : state, isMain: true, done,
        })];
    }
    return (collection.commands ?? []).map(({ name, path: template }) => new Form({
        label: words(name), title: needsBody(template, "post") === false ? undefined : words(name), method: "POST", path: () => template.replace("{key}", segment(key)),
        schema: bodySchema(template, "post"), hasBody: needsBody(template, "post"), done,
    }));
}

/** `add-item` as Add item. */
function words(name) {
    const text = name.replaceAll("-", " ");
    return text.charAt(0).toUpperCase() + text.slice(1);
}

/** A body that shows the required members. */
function exampleOf(schema) {
    const fields = fieldsOf(schema);
    if (fields === undefined) return "{}";
    const shown = fields.filter((field) => field.isRequired);
    const values = { text: (name) => (name === "name" ? "Ann" : "text"), number: () => 1, boolean: () => true, choice: (_, choices) => choices[0], json: () => ({}) };
    return JSON.stringify(Object.fromEntries(shown.map(({ name, kind, choices }) => [name, values[kind](name, choices)])));
}
