/** What /openapi.json says of the bodies of requests. */

import { read } from "./api.js";
import { isObject } from "./patch.js";

let document;

/** Loads the description once; without one, forms are fields for JSON. */
export async function loadSchemas(path) {
    if (path === undefined) return;
    try {
        document = await read(path);
    } catch {
        document = undefined;
    }
}

/**
 * The schema of the body of a request.
 * @param {string} path such as `/carts/{key}/add-item`
 * @param {string} method
 */
export function bodySchema(path, method) {
    const operation = document?.paths?.[path]?.[method.toLowerCase()];
    const content = resolve(operation?.requestBody)?.content;
    const schema = content?.["application/json"]?.schema ?? content?.["application/merge-patch+json"]?.schema;
    return schema === undefined ? undefined : resolve(schema);
}

/** Whether the description has this operation; `undefined` without a description. */
export function hasOperation(path, method) {
    if (document?.paths === undefined) return undefined;
    return document.paths[path]?.[method.toLowerCase()] !== undefined;
}

/** Whether there is a request body at all: a command without fields has none. */
export function needsBody(path, method) {
    const operation = document?.paths?.[path]?.[method.toLowerCase()];
    return operation === undefined ? undefined : operation.requestBody !== undefined;
}

/** The names of all reports that the description lists. */
export function reportPaths() {
    return Object.keys(document?.paths ?? {}).filter((path) => path.startsWith("/reports/") && !path.includes("{"));
}

/** The query parameters of a path. */
export function queryParameters(path) {
    const parameters = document?.paths?.[path]?.get?.parameters ?? [];
    return parameters.map(resolve).filter((parameter) => parameter.in === "query");
}

/** Follows `$ref`, and the one schema of `allOf`. */
export function resolve(schema) {
    let found = schema;
    for (let depth = 0; depth < 8 && isObject(found); depth += 1) {
        if (typeof found.$ref === "string") found = at(found.$ref);
        else if (Array.isArray(found.allOf) && found.allOf.length === 1) found = { ...resolve(found.allOf[0]), ...without(found, "allOf") };
        else break;
    }
    return found;
}

function at(reference) {
    const names = reference.replace(/^#\//, "").split("/").map((name) => name.replaceAll("~1", "/").replaceAll("~0", "~"));
    return names.reduce((found, name) => found?.[name], document);
}

function without(object, name) {
    return Object.fromEntries(Object.entries(object).filter(([other]) => other !== name));
}

/**
 * A member as a form needs it.
 * @typedef {{ name: string, kind: "text" | "number" | "boolean" | "choice" | "json", choices?: any[], isRequired: boolean, hint: string }} Field
 */

/** The members of an object schema as fields; `undefined` if it is another schema. */
export function fieldsOf(schema) {
    const found = resolve(schema);
    if (!isObject(found?.properties)) return undefined;
    return Object.entries(found.properties).map(([name, member]) => {
        const plain = plainSchema(member);
        const description = resolve(member)?.description ?? plain?.description ?? "";
        return { name, ...kindOf(plain), isRequired: (found.required ?? []).includes(name), hint: description };
    });
}

/** The schema without the alternative `null`. */
function plainSchema(schema) {
    const found = resolve(schema);
    const alternatives = found?.anyOf ?? found?.oneOf;
    if (!Array.isArray(alternatives)) return found;
    const rest = alternatives.map(resolve).filter((alternative) => alternative?.type !== "null");
    if (rest.length === 1) return resolve(rest[0]);
    return rest.every((alternative) => alternative?.const !== undefined) ? { enum: rest.map((alternative) => alternative.const) } : found;
}

function kindOf(schema) {
    if (Array.isArray(schema?.enum)) return { kind: "choice", choices: schema.enum.filter((choice) => choice !== null) };
    const types = [schema?.type].flat().filter((type) => type !== "null");
    if (types.length !== 1) return { kind: "json" };
    return { kind: { string: "text", integer: "number", number: "number", boolean: "boolean" }[types[0]] ?? "json" };
}
