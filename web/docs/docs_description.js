/** The description of the service, as /openapi.json has it: references, schemas and examples. */

let description;

/** Loads it. */
export async function load() {
    const response = await fetch("/openapi.json", { headers: { accept: "application/json" } });
    if (!response.ok) throw new Error(`/openapi.json: ${response.status}`);
    description = await response.json();
    return description;
}

/**
 * What an object stands for: itself, or the target of its reference with what is beside it.
 * @param {any} object
 */
export function resolved(object) {
    if (typeof object?.$ref !== "string") return object;
    const { $ref, ...beside } = object;
    const steps = $ref.slice(2).split("/").map((step) => decodeURIComponent(step).replaceAll("~1", "/").replaceAll("~0", "~"));
    const target = steps.reduce((value, step) => value?.[step], description);
    return { ...resolved(target), ...beside };
}

/** The name of the schema that a reference points to. */
export function referenceName(schema) {
    return typeof schema?.$ref === "string" ? schema.$ref.split("/").at(-1) : undefined;
}

/** The choices of a schema; only the schema itself if it offers none. */
export function choices(schema) {
    return resolved(schema)?.oneOf ?? resolved(schema)?.anyOf ?? [schema];
}

/** The type of a schema, in words. */
export function typeOf(schema) {
    const whole = resolved(schema) ?? {};
    const { type, items, format } = whole;
    if (whole.const !== undefined) return JSON.stringify(whole.const);
    if (whole.enum !== undefined) return whole.enum.map((value) => JSON.stringify(value)).join(" | ");
    const several = whole.oneOf ?? whole.anyOf;
    if (several !== undefined) return several.map((choice) => referenceName(choice) ?? typeOf(choice)).join(" | ");
    if (type === "array") return `list of ${referenceName(items) ?? typeOf(items)}`;
    const name = Array.isArray(type) ? type.join(" | ") : type ?? "anything";
    return format === undefined || format.startsWith("int") || format.startsWith("uint") ? name : `${name} (${format})`;
}

/** What a schema demands beyond its type. */
export function rulesOf(schema) {
    const { minLength, maxLength, minimum, maximum, pattern, maxItems, default: preset } = resolved(schema) ?? {};
    const exact = (number) => Math.abs(number) !== Number.MAX_SAFE_INTEGER;
    const rules = [];
    if (minLength > 0) rules.push(`at least ${minLength} ${minLength === 1 ? "character" : "characters"}`);
    if (maxLength !== undefined) rules.push(`at most ${maxLength} characters`);
    if (minimum !== undefined && exact(minimum)) rules.push(`from ${minimum}`);
    if (maximum !== undefined && exact(maximum)) rules.push(`up to ${maximum}`);
    if (maxItems !== undefined) rules.push(`at most ${maxItems}`);
    if (pattern !== undefined && pattern.length < 32) rules.push(pattern);
    if (preset !== undefined) rules.push(`${preset} by default`);
    return rules.join(", ");
}

/** An example of what a schema describes; members that may be absent are left out. */
export function exampleOf(schema, depth = 0) {
    const whole = resolved(schema) ?? {};
    if (whole.examples?.length > 0) return whole.examples[0];
    if (whole.const !== undefined) return whole.const;
    if (whole.enum !== undefined) return whole.enum[0];
    if (depth > 6) return {};
    const several = whole.oneOf ?? whole.anyOf;
    if (several !== undefined) return exampleOf(several[0], depth + 1);
    const type = Array.isArray(whole.type) ? whole.type[0] : whole.type;
    switch (type) {
        case "string": return "text";
        case "integer": case "number": return Math.max(whole.minimum ?? 1, 1);
        case "boolean": return true;
        case "array": return [];
        default: {
            const required = (whole.required ?? []).map((name) => [name, exampleOf(whole.properties?.[name], depth + 1)]);
            return Object.fromEntries(required);
        }
    }
}
