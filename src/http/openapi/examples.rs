//! Examples of values, from their schemas.

use serde_json::{Map, Value};

/// A value that a schema describes: its first example, or the simplest one. A reference has none, because a reader finds it
/// at its target.
pub(super) fn example(schema: &Value) -> Value {
    let of = |keyword: &str| schema.get(keyword).filter(|value| !value.is_null());
    let first = |keyword: &str| of(keyword).and_then(|list| list.get(0)).cloned();
    if let Some(given) = first("examples").or_else(|| of("const").cloned()).or_else(|| first("enum")) {
        return given;
    }
    if let Some(choice) = of("oneOf").or(of("anyOf")).and_then(|choices| choices.get(0)) {
        return example(choice);
    }
    let kind = of("type").and_then(|kind| kind.as_str().or_else(|| kind.get(0)?.as_str()));
    match kind {
        Some("string") => "text".into(),
        Some("integer" | "number") => {
            schema.get("minimum").and_then(Value::as_i64).filter(|least| *least > 0).unwrap_or(8).into()
        }
        Some("boolean") => true.into(),
        Some("array") => of("items").map(|items| vec![example(items)]).unwrap_or_default().into(),
        Some("object") => {
            let members = of("properties").and_then(Value::as_object);
            let members = members.into_iter().flatten().map(|(name, schema)| (name.clone(), example(schema)));
            members.collect::<Map<_, _>>().into()
        }
        _ if of("$ref").is_some_and(|target| target.as_str().is_some_and(|target| target.ends_with("/Key"))) => {
            "1".into()
        }
        _ => Value::Object(Map::new()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_example_is_what_the_schema_says_first() {
        for (schema, expected) in [
            (json!({"type": "string", "examples": ["Ann"]}), json!("Ann")),
            (json!({"const": 5}), json!(5)),
            (json!({"enum": ["open", "closed"]}), json!("open")),
            (json!({"type": ["string", "null"]}), json!("text")),
            (json!({"type": "integer", "minimum": 9}), json!(9)),
            (json!({"anyOf": [{"type": "boolean"}, {"type": "null"}]}), json!(true)),
            (json!({"type": "array", "items": {"type": "integer"}}), json!([8])),
            (json!({"type": "object", "properties": {"a": {"type": "string"}}}), json!({"a": "text"})),
            (json!({"$ref": "#/components/schemas/Key"}), json!("1")),
        ] {
            assert_eq!(example(&schema), expected, "{schema}");
        }
    }
}
