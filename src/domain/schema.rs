//! JSON Schemas of what a collection takes, keeps and publishes
//! ([2020-12](https://json-schema.org/draft/2020-12/schema)), from the derives of its types.
//!
//! `schemars` describes what serde reads and writes. The transforms here add what this service does beyond that: a state
//! never contains null, a body with an unknown member is rejected, and so is a number that JavaScript would change.

mod variants;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};
pub(crate) use variants::{NamedSchema, variants};

use crate::domain::json::MAX_NUMBER;

/// Where references in a schema point to.
pub(crate) const COMPONENTS: &str = "#/components/schemas/";

/// The schemas of one collection. References point to [`COMPONENTS`], and belong to the [`Definitions`] of their generator.
pub(crate) struct CollectionSchemas {
    /// The state of one aggregate.
    pub(crate) state: Value,
    /// The body that creates an aggregate, or replaces a document; `None` if clients can only read.
    pub(crate) created: Option<Value>,
    /// The bodies of the other commands, by their names in paths.
    pub(crate) commands: Vec<NamedSchema>,
    /// The bodies of the domain events, by kind.
    pub(crate) events: Vec<NamedSchema>,
    /// The fields of the business rules, by the type of the problem document.
    pub(crate) rules: Vec<NamedSchema>,
}

/// Generates schemas. The types that several schemas share are in one place for each way of use.
pub(crate) struct Generators {
    states: SchemaGenerator,
    bodies: SchemaGenerator,
    records: SchemaGenerator,
}

/// The shared types of the schemas of one way of use, by name.
pub(crate) struct Definitions {
    pub(crate) states: Map<String, Value>,
    pub(crate) bodies: Map<String, Value>,
    pub(crate) records: Map<String, Value>,
}

impl Generators {
    pub(crate) fn new() -> Self {
        let settings = || {
            SchemaSettings::draft2020_12().with(|settings| {
                settings.definitions_path = "/components/schemas".into();
                settings.meta_schema = None;
            })
        };
        Self {
            states: settings().for_serialize().into_generator(),
            bodies: settings().for_deserialize().into_generator(),
            records: settings().for_serialize().into_generator(),
        }
    }

    /// A state, as responses and events contain it.
    pub(crate) fn state<T: JsonSchema>(&mut self) -> Value {
        of_state(T::json_schema(&mut self.states).to_value())
    }

    /// What a request body may be.
    pub(crate) fn body<T: JsonSchema>(&mut self) -> Value {
        of_body(T::json_schema(&mut self.bodies).to_value())
    }

    /// What is written once and not read by the service: an event, a rule.
    pub(crate) fn record<T: JsonSchema>(&mut self) -> Value {
        of_record(T::json_schema(&mut self.records).to_value())
    }

    /// The types that the schemas so far refer to.
    pub(crate) fn into_definitions(mut self) -> Definitions {
        let all = |generator: &mut SchemaGenerator, transform: fn(Value) -> Value| {
            let definitions = generator.take_definitions(false);
            definitions.into_iter().map(|(name, schema)| (name, transform(schema))).collect()
        };
        Definitions {
            states: all(&mut self.states, of_state),
            bodies: all(&mut self.bodies, of_body),
            records: all(&mut self.records, of_record),
        }
    }
}

/// An object whose members have any names of a pattern, in the form that all tools understand.
fn name_members(keywords: &mut Map<String, Value>) {
    let is_closed = keywords.get("additionalProperties") == Some(&Value::Bool(false));
    let patterns = keywords.get("patternProperties").and_then(Value::as_object);
    let only = patterns.filter(|patterns| patterns.len() == 1 && !keywords.contains_key("properties"));
    let Some((pattern, member)) = only.and_then(|patterns| patterns.iter().next()).filter(|_| is_closed) else {
        return;
    };
    let (names, member) = (json!({"pattern": pattern}), member.clone());
    keywords.remove("patternProperties");
    keywords.insert("propertyNames".to_owned(), names);
    keywords.insert("additionalProperties".to_owned(), member);
}

fn of_state(mut schema: Value) -> Value {
    transform(&mut schema, &|schema| {
        keep_exact(schema);
        name_members(schema);
        omit_nulls(schema);
    });
    schema
}

fn of_body(mut schema: Value) -> Value {
    transform(&mut schema, &|schema| {
        keep_exact(schema);
        name_members(schema);
        close(schema);
    });
    schema
}

fn of_record(mut schema: Value) -> Value {
    transform(&mut schema, &|schema| {
        keep_exact(schema);
        name_members(schema);
    });
    schema
}

/// Keywords whose value is one schema, which is a list of schemas, or which is an object of them.
const ONE: [&str; 4] = ["items", "additionalProperties", "propertyNames", "not"];
const LIST: [&str; 4] = ["oneOf", "anyOf", "allOf", "prefixItems"];
const NAMED: [&str; 2] = ["properties", "patternProperties"];

/// Changes a schema and all schemas in it, the outer ones first.
pub(crate) fn transform(schema: &mut Value, change: &dyn Fn(&mut Map<String, Value>)) {
    let Value::Object(keywords) = schema else { return };
    change(keywords);
    for (keyword, value) in keywords {
        match value {
            Value::Object(members) if NAMED.contains(&keyword.as_str()) => {
                members.values_mut().for_each(|member| transform(member, change));
            }
            Value::Array(items) if LIST.contains(&keyword.as_str()) => {
                items.iter_mut().for_each(|item| transform(item, change));
            }
            one if ONE.contains(&keyword.as_str()) => transform(one, change),
            _ => {}
        }
    }
}

/// Visits all references in a schema, which may change them.
pub(crate) fn each_reference(schema: &mut Value, visit: &mut dyn FnMut(&mut String)) {
    match schema {
        Value::Object(keywords) => {
            for (keyword, value) in keywords {
                match value {
                    Value::String(target) if keyword == "$ref" => visit(target),
                    inner => each_reference(inner, visit),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| each_reference(item, visit)),
        _ => {}
    }
}

/// Whether null is valid according to a schema, as far as it says so itself.
pub(crate) fn admits_null(schema: &Value) -> bool {
    let Value::Object(keywords) = schema else { return schema == &Value::Bool(true) };
    let some =
        |list: &Value, holds: &dyn Fn(&Value) -> bool| list.as_array().is_some_and(|list| list.iter().any(holds));
    match keywords.get("type") {
        Some(Value::String(kind)) => kind == "null",
        Some(kinds) => some(kinds, &|kind| kind == "null"),
        None => {
            if let Some(choices) = keywords.get("anyOf").or(keywords.get("oneOf")) {
                return some(choices, &admits_null);
            }
            let says_more = ["$ref", "allOf", "enum", "const"].iter().any(|keyword| keywords.contains_key(*keyword));
            !says_more || keywords.get("enum").is_some_and(|list| some(list, &Value::is_null))
        }
    }
}

/// A state has no null: what would be null is absent.
fn omit_nulls(keywords: &mut Map<String, Value>) {
    let absent: Vec<_> = match keywords.get("properties") {
        Some(Value::Object(members)) => members
            .iter()
            .filter(|(_, schema)| admits_null(schema))
            .map(|(name, _)| Value::from(name.as_str()))
            .collect(),
        _ => Vec::new(),
    };
    if let Some(Value::Array(required)) = keywords.get_mut("required") {
        required.retain(|name| !absent.contains(name));
        if required.is_empty() {
            keywords.remove("required");
        }
    }
    if let Some(Value::Array(kinds)) = keywords.get_mut("type") {
        kinds.retain(|kind| kind != "null");
        if let [only] = &kinds[..] {
            let only = only.clone();
            keywords.insert("type".to_owned(), only);
        }
    }
    if let Some(Value::Array(values)) = keywords.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
    if let Some(Value::Array(choices)) = keywords.get_mut("anyOf") {
        choices.retain(|choice| choice.get("type").is_none_or(|kind| kind != "null"));
        if let [Value::Object(only)] = &choices[..] {
            let only = only.clone();
            keywords.remove("anyOf");
            keywords.extend(only);
        }
    }
}

/// A body has no members but the declared ones.
fn close(keywords: &mut Map<String, Value>) {
    let is_open =
        ["additionalProperties", "unevaluatedProperties", "patternProperties", "allOf", "anyOf", "oneOf", "$ref"];
    if keywords.contains_key("properties") && !is_open.iter().any(|keyword| keywords.contains_key(*keyword)) {
        keywords.insert("additionalProperties".to_owned(), false.into());
    }
}

/// Numbers are those that JavaScript has exactly.
fn keep_exact(keywords: &mut Map<String, Value>) {
    let is_number = |kind: &Value| kind == "integer" || kind == "number";
    let numeric = match keywords.get("type") {
        Some(Value::Array(kinds)) => kinds.iter().any(is_number),
        Some(kind) => is_number(kind),
        None => false,
    };
    if !numeric {
        return;
    }
    let limit = |keyword: &str, is_tighter: &dyn Fn(f64) -> bool| {
        keywords.get(keyword).and_then(Value::as_f64).is_some_and(is_tighter)
    };
    #[expect(clippy::cast_precision_loss, reason = "it is exact by its definition")]
    let most = MAX_NUMBER as f64;
    let (minimum, maximum) =
        (limit("minimum", &|least| least >= -most), limit("maximum", &|greatest| greatest <= most));
    if !minimum {
        keywords.insert("minimum".to_owned(), json!(-MAX_NUMBER));
    }
    if !maximum {
        keywords.insert("maximum".to_owned(), json!(MAX_NUMBER));
    }
}

/// The schema of a merge patch ([RFC 7396](https://www.rfc-editor.org/rfc/rfc7396)) of what `body` describes: any members of
/// it, and null to remove those that may be absent.
pub(crate) fn patch_of(mut body: Value) -> Value {
    let required: Vec<Value> = match body.as_object_mut().and_then(|keywords| keywords.remove("required")) {
        Some(Value::Array(names)) => names,
        _ => Vec::new(),
    };
    if let Some(Value::Object(members)) = body.get_mut("properties") {
        for (name, schema) in members {
            let is_required = required.iter().any(|required| required == name);
            let is_inner = schema.get("$ref").is_some() || schema.get("properties").is_some();
            if !is_required && !admits_null(schema) && !is_inner {
                *schema = json!({"anyOf": [schema.take(), {"type": "null"}]});
            }
        }
    }
    body
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use schemars::JsonSchema;
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::domain::key::Key;

    /// A basket.
    #[derive(Serialize, Deserialize, JsonSchema)]
    struct Basket {
        #[schemars(length(min = 1))]
        owner: String,
        weight: Option<u32>,
        cents: i64,
        items: BTreeMap<Key, Item>,
        last: Option<Item>,
    }

    #[derive(Serialize, Deserialize, JsonSchema)]
    struct Item {
        #[serde(default)]
        price: u64,
    }

    #[test]
    fn a_state_has_no_null_and_requires_what_is_always_there() {
        let state = Generators::new().state::<Basket>();
        assert_eq!(state["required"], json!(["owner", "cents", "items"]));
        assert_eq!(state["properties"]["weight"]["type"], "integer");
        assert_eq!(state["properties"]["last"], json!({"$ref": "#/components/schemas/Item"}));
        assert!(state.get("additionalProperties").is_none());
        assert_eq!(state["properties"]["cents"]["maximum"], json!(MAX_NUMBER));
        assert_eq!(state["properties"]["cents"]["minimum"], json!(-MAX_NUMBER));
        assert_eq!(state["description"], "A basket.");
        assert_eq!(state["properties"]["items"]["additionalProperties"], json!({"$ref": "#/components/schemas/Item"}));
        assert!(state["properties"]["items"]["propertyNames"]["pattern"].is_string());
    }

    #[test]
    fn a_body_takes_null_for_what_may_be_absent_and_no_other_members() {
        let mut generators = Generators::new();
        let body = generators.body::<Basket>();
        assert_eq!(body["required"], json!(["owner", "cents", "items"]));
        assert_eq!(body["additionalProperties"], json!(false));
        assert_eq!(body["properties"]["weight"]["type"], json!(["integer", "null"]));
        assert_eq!(body["properties"]["owner"]["minLength"], 1);
        let definitions = generators.into_definitions();
        assert_eq!(definitions.bodies["Item"]["additionalProperties"], json!(false));
        assert!(definitions.bodies["Item"].get("required").is_none(), "it has a default");
        assert!(definitions.states.is_empty());
    }

    #[test]
    fn a_patch_requires_nothing_and_removes_only_what_may_be_absent() {
        let patch = patch_of(Generators::new().body::<Basket>());
        assert!(patch.get("required").is_none());
        assert_eq!(patch["properties"]["owner"]["type"], "string");
        assert!(admits_null(&patch["properties"]["weight"]) && admits_null(&patch["properties"]["last"]));
    }

    #[test]
    fn null_is_admitted_where_the_schema_says_so() {
        for schema in [json!(true), json!({}), json!({"type": ["string", "null"]}), json!({"enum": ["a", null]})] {
            assert!(admits_null(&schema), "{schema}");
        }
        for schema in [json!(false), json!({"type": "string"}), json!({"$ref": "#/x"}), json!({"enum": ["a"]})] {
            assert!(!admits_null(&schema), "{schema}");
        }
    }
}
