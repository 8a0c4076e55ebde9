//! The variants of an enum that serde tags externally, from its schema.

use serde_json::{Map, Value, json};

/// A schema and its name.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NamedSchema {
    pub(crate) name: String,
    /// That of the fields, which are an object.
    pub(crate) schema: Value,
}

/// The variants that a schema describes, in their order; empty if it does not describe such an enum.
pub(crate) fn variants(schema: &Value) -> Vec<NamedSchema> {
    match schema.get("oneOf").or(schema.get("anyOf")) {
        Some(Value::Array(choices)) => choices.iter().flat_map(variants).collect(),
        _ => names(schema)
            .into_iter()
            .map(|name| NamedSchema { name, schema: fields_of_none(schema) })
            .chain(tagged(schema))
            .collect(),
    }
}

/// The names of variants without fields.
fn names(schema: &Value) -> Vec<String> {
    let name = |value: &Value| value.as_str().map(str::to_owned);
    match (schema.get("const"), schema.get("enum")) {
        (Some(only), _) => name(only).into_iter().collect(),
        (None, Some(Value::Array(names))) => names.iter().filter_map(name).collect(),
        _ => Vec::new(),
    }
}

fn fields_of_none(schema: &Value) -> Value {
    let mut fields = json!({"type": "object", "properties": {}, "additionalProperties": false});
    describe(&mut fields, schema);
    fields
}

/// A variant with fields: `{"properties":{"AddItem":{…}},"required":["AddItem"]}`.
fn tagged(schema: &Value) -> Option<NamedSchema> {
    let members: &Map<String, Value> = schema.get("properties")?.as_object()?;
    let (name, fields) = members.iter().next().filter(|_| members.len() == 1)?;
    let mut fields = fields.clone();
    describe(&mut fields, schema);
    Some(NamedSchema { name: name.clone(), schema: fields })
}

/// The text about a variant is beside its tag.
fn describe(fields: &mut Value, variant: &Value) {
    if let (Some(text), Value::Object(fields)) = (variant.get("description"), fields) {
        fields.insert("description".to_owned(), text.clone());
    }
}

#[cfg(test)]
mod tests {
    use schemars::{JsonSchema, SchemaGenerator};

    use super::*;

    #[derive(JsonSchema)]
    #[expect(dead_code, reason = "the test reads the schema only")]
    enum Plain {
        Open,
        Close,
    }

    #[derive(JsonSchema)]
    #[schemars(rename_all = "snake_case")]
    #[expect(dead_code, reason = "the test reads the schema only")]
    enum Mixed {
        /// Opens it.
        Open,
        Close,
        /// Adds one.
        AddItem {
            item: String,
        },
    }

    #[derive(JsonSchema)]
    enum Never {}

    fn names<T: JsonSchema>() -> Vec<String> {
        let schema = SchemaGenerator::default().into_root_schema_for::<T>().to_value();
        variants(&schema).into_iter().map(|variant| variant.name).collect()
    }

    #[test]
    fn every_variant_is_found_by_its_serialised_name() {
        assert_eq!(names::<Plain>(), ["Open", "Close"]);
        let mut mixed = names::<Mixed>();
        mixed.sort();
        assert_eq!(mixed, ["add_item", "close", "open"]);
        assert!(names::<Never>().is_empty());
        assert!(names::<String>().is_empty());
    }

    #[test]
    fn a_variant_has_its_fields_and_its_description() {
        let schema = SchemaGenerator::default().into_root_schema_for::<Mixed>().to_value();
        let found = variants(&schema);
        let of = |name: &str| &found.iter().find(|variant| variant.name == name).unwrap().schema;
        assert_eq!(of("add_item")["properties"]["item"]["type"], "string");
        assert_eq!(of("add_item")["description"], "Adds one.");
        assert_eq!(of("open")["description"], "Opens it.");
        assert_eq!(of("close")["properties"], json!({}));
    }
}
