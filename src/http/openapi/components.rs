//! The schemas that operations refer to, each under a name of its own.

use std::collections::HashMap;

use heck::ToPascalCase as _;
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};

use crate::access::tickets::TICKET;
use crate::domain::collection::Registry;
use crate::domain::key::CollectionId;
use crate::domain::schema::{COMPONENTS, CollectionSchemas, Definitions, Generators, NamedSchema, each_reference};

/// `components` of the document.
#[derive(Default)]
pub(super) struct Components {
    schemas: Map<String, Value>,
    responses: Map<String, Value>,
}

impl Components {
    /// Adds a schema, under another name if this one is taken, and returns a reference to it.
    pub(super) fn add(&mut self, name: &str, schema: Value) -> Value {
        let name = if self.schemas.get(name) == Some(&schema) { name.to_owned() } else { self.free(name) };
        let reference = reference(&name);
        self.schemas.insert(name, schema);
        reference
    }

    /// Adds a response, and returns a reference to it. The name says what it is.
    pub(super) fn add_response(&mut self, name: &str, response: Value) -> Value {
        self.responses.entry(name).or_insert(response);
        json!({"$ref": format!("#/components/responses/{name}")})
    }

    /// What a reference points to.
    pub(super) fn resolve(&self, reference: &Value) -> Option<&Value> {
        self.schemas.get(reference.get("$ref")?.as_str()?.strip_prefix(COMPONENTS)?)
    }

    /// A name that no schema has, with a number if necessary.
    fn free(&self, name: &str) -> String {
        let plain: String =
            name.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' }).collect();
        let numbered = (2..).map(|number| format!("{plain}{number}"));
        let mut names = std::iter::once(plain.clone()).chain(numbered);
        names.find(|name| !self.schemas.contains_key(name)).unwrap_or(plain)
    }

    pub(super) fn into_json(self, parameters: &Value, headers: &Value) -> Value {
        let token = "A token that the service knows, as `duality token new` prints it. A service without `--tokens` needs none.";
        let ticket = "A ticket of `POST /-/tickets`, for an `EventSource`, which cannot send a header.";
        let schemes = json!({
            "token": {"type": "http", "scheme": "bearer", "description": token},
            "ticket": {"type": "apiKey", "in": "query", "name": TICKET, "description": ticket},
        });
        json!({
            "schemas": self.schemas, "responses": self.responses, "parameters": parameters, "headers": headers,
            "securitySchemes": schemes,
        })
    }
}

pub(super) fn reference(name: &str) -> Value {
    json!({"$ref": format!("{COMPONENTS}{name}")})
}

/// `shopping-carts` → `ShoppingCarts`
pub(super) fn pascal(name: &str) -> String {
    name.to_pascal_case()
}

/// The name of a schema for the singular name of a collection: `cart-item` → `CartItem`. No two collections have the same.
pub(super) fn type_name(singular: &str) -> String {
    let capital = |word: &str| match word.chars().next() {
        Some(first) if first.is_ascii_alphabetic() => first.to_ascii_uppercase().to_string() + &word[1..],
        _ => format!("_{word}"),
    };
    singular.split('-').map(capital).collect()
}

/// A collection with its schemas, which refer to components.
pub(super) struct DescribedCollection {
    pub(super) id: CollectionId,
    pub(super) schemas: CollectionSchemas,
    /// A reference to the state of one aggregate.
    pub(super) state: Value,
}

/// Adds the schemas of all collections. Their states come first, so that these have the names that one expects.
pub(super) fn described(registry: &Registry, components: &mut Components) -> Vec<DescribedCollection> {
    let mut generators = Generators::new();
    let generated: Vec<_> = registry.ids().map(|id| (id, registry.get(id).schemas(&mut generators))).collect();
    let names: Vec<_> = registry.ids().map(|id| type_name(&registry.get(id).singular())).collect();
    for name in &names {
        components.schemas.insert(name.clone(), Value::Null);
    }
    let renamed = Renamed::of(generators.into_definitions(), components);
    let mut described = Vec::new();
    for ((id, mut schemas), name) in generated.into_iter().zip(names) {
        renamed.states.apply(&mut schemas.state);
        schemas.created.iter_mut().chain(bodies(&mut schemas.commands)).for_each(|schema| renamed.bodies.apply(schema));
        bodies(&mut schemas.events).chain(bodies(&mut schemas.rules)).for_each(|schema| renamed.records.apply(schema));
        let state = reference(&name);
        components.schemas.insert(name, schemas.state.clone());
        described.push(DescribedCollection { id, schemas, state });
    }
    described
}

fn bodies(named: &mut [NamedSchema]) -> impl Iterator<Item = &mut Value> {
    named.iter_mut().map(|named| &mut named.schema)
}

/// The final names of the types of one generator.
#[derive(Default)]
struct Names(HashMap<String, String>);

impl Names {
    fn apply(&self, schema: &mut Value) {
        each_reference(schema, &mut |target| {
            let Some(name) = target.strip_prefix(COMPONENTS) else { return };
            let name = percent_decode_str(name).decode_utf8_lossy();
            if let Some(renamed) = self.0.get(name.as_ref()) {
                *target = format!("{COMPONENTS}{renamed}");
            }
        });
    }
}

/// The final names of all types.
struct Renamed {
    states: Names,
    bodies: Names,
    records: Names,
}

impl Renamed {
    /// Adds all types. One that is the same in a body or a record as in a state has one schema.
    fn of(definitions: Definitions, components: &mut Components) -> Self {
        let Definitions { states, bodies, records } = definitions;
        let of_states = add_all(&states, &Names::default(), "", components);
        let same = |others: &Map<String, Value>| {
            let names = shared(&states, others).into_iter();
            Names(
                names.filter_map(|name| of_states.0.get(&name).map(|final_name| (name, final_name.clone()))).collect(),
            )
        };
        let of_bodies = add_all(&bodies, &same(&bodies), "Input", components);
        let of_records = add_all(&records, &same(&records), "Record", components);
        Self { states: of_states, bodies: of_bodies, records: of_records }
    }
}

/// Adds the types that have no name yet.
fn add_all(types: &Map<String, Value>, known: &Names, suffix: &str, components: &mut Components) -> Names {
    let mut names = Names(known.0.clone());
    for name in types.keys() {
        if !known.0.contains_key(name) {
            let free = components.free(&format!("{name}{suffix}"));
            components.schemas.insert(free.clone(), Value::Null);
            names.0.insert(name.clone(), free);
        }
    }
    for (name, schema) in types {
        if !known.0.contains_key(name) {
            let mut schema = schema.clone();
            names.apply(&mut schema);
            components.schemas.insert(names.0[name].clone(), schema);
        }
    }
    names
}

/// The names of the types that are the same in both, and all that they refer to as well.
fn shared(states: &Map<String, Value>, others: &Map<String, Value>) -> Vec<String> {
    let mut same: Vec<_> = others.iter().filter(|(name, schema)| states.get(*name) == Some(schema)).collect();
    loop {
        let refers_to_same = |schema: &Value| {
            let mut schema = schema.clone();
            let mut all_same = true;
            each_reference(&mut schema, &mut |target| {
                let name = target.strip_prefix(COMPONENTS).unwrap_or_default();
                all_same &= same.iter().any(|(known, _)| *known == name);
            });
            all_same
        };
        let kept: Vec<_> = same.iter().copied().filter(|(_, schema)| refers_to_same(schema)).collect();
        if kept.len() == same.len() {
            return kept.into_iter().map(|(name, _)| name.clone()).collect();
        }
        same = kept;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_taken_gets_a_number() {
        let mut components = Components::default();
        assert_eq!(components.add("Item", json!({"type": "string"})), reference("Item"));
        assert_eq!(components.add("Item", json!({"type": "string"})), reference("Item"));
        assert_eq!(components.add("Item", json!({"type": "object"})), reference("Item2"));
        assert_eq!(components.add("A<b>", json!({})), reference("A_b_"));
    }

    #[test]
    fn different_collections_have_schemas_of_different_names() {
        let names = ["cart", "cart-item", "cartitem", "line-1", "line1"].map(type_name);
        assert_eq!(names, ["Cart", "CartItem", "Cartitem", "Line_1", "Line1"]);
    }

    #[test]
    fn a_type_is_shared_only_if_all_that_it_refers_to_is_the_same() {
        let types = |inner: &str| {
            let Value::Object(types) = json!({
                "Outer": {"items": {"$ref": "#/components/schemas/Inner"}},
                "Inner": {"type": inner},
                "Key": {"type": "string"},
            }) else {
                unreachable!()
            };
            types
        };
        assert_eq!(shared(&types("object"), &types("object")).len(), 3);
        assert_eq!(shared(&types("object"), &types("array")), ["Key"]);
    }
}
