/** What /openapi.json says of requests. Without it, forms are fields for JSON. */

import { request } from "./api.js";
import { isObject } from "./patch.js";

let description;

export async function loadSchemas(path) {
    const answer = path && await request(path);
    if (answer?.ok) description = JSON.parse(answer.text);
}

/** The schema of the body of a request, such as `POST` of `/carts/{key}/add-item`. */
export function bodySchema(path, method) {
    return description?.paths[path]?.[method.toLowerCase()]?.requestBody?.content["application/json"]?.schema;
}

export function reportNames() {
    return Object.keys(description?.paths ?? {}).map((path) => /^\/reports\/([^{]+)$/.exec(path)?.[1]).filter(Boolean);
}

export function queryParameters(path) {
    const { parameters = [] } = description?.paths[path]?.get ?? {};
    return parameters.map(resolve).filter((parameter) => parameter.in === "query").map(({ name }) => name);
}

/** Follows `$ref`, and `allOf` with one schema. */
function resolve(schema) {
    for (let depth = 0; depth < 8 && isObject(schema); depth += 1) {
        if (schema.allOf?.length === 1) schema = { ...schema, ...schema.allOf[0], allOf: undefined };
        if (typeof schema.$ref !== "string") break;
        const names = schema.$ref.slice(2).split("/").map((name) => name.replaceAll("~1", "/").replaceAll("~0", "~"));
        schema = names.reduce((found, name) => found?.[name], description);
    }
    return schema;
}

export function fieldsOf(schema) {
    const { properties, required = [] } = resolve(schema) ?? {};
    return properties && Object.entries(properties).map(([name, property]) => (
        { name, ...kindOf(withoutNull(property)), isRequired: required.includes(name), hint: property.description, example: property.examples?.[0] ?? "text" }
    ));
}

function withoutNull(property) {
    const schema = resolve(property);
    const rest = (schema?.anyOf ?? schema?.oneOf)?.map(resolve).filter(({ type }) => type !== "null");
    if (rest === undefined) return schema;
    if (rest.length === 1) return rest[0];
    return rest.every((one) => "const" in one) ? { enum: rest.map((one) => one.const) } : schema;
}

function kindOf(schema) {
    const types = [schema?.type].flat().filter((type) => type !== "null");
    const choices = schema?.enum ?? (types[0] === "boolean" ? [true, false] : undefined);
    if (choices !== undefined) return { kind: "choice", choices: choices.filter((choice) => choice !== null) };
    return { kind: (types.length === 1 && { string: "text", integer: "number", number: "number" }[types[0]]) || "json" };
}
