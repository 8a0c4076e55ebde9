//! `/openapi.json` describes all routes and problems of the service, with the schemas of whatever is registered.

use std::collections::{BTreeMap, BTreeSet};

use duality::schemars::{self, JsonSchema};
use duality::{Derived, Document, Key, Service};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::architecture::sources;
use crate::harness::App;

fn document(app: &App) -> Value {
    let response = app.get("/openapi.json");
    assert_eq!((response.status, response.header("Content-Type")), (200, Some("application/json")));
    response.json()
}

/// All values of a member with this name, wherever they are.
fn members<'a>(json: &'a Value, name: &str, found: &mut Vec<&'a Value>) {
    match json {
        Value::Object(object) => {
            found.extend(object.get(name));
            object.values().for_each(|value| members(value, name, found));
        }
        Value::Array(items) => items.iter().for_each(|item| members(item, name, found)),
        _ => {}
    }
}

#[test]
fn every_reference_leads_somewhere_and_every_operation_has_its_own_id() {
    let document = document(&App::start());
    assert_eq!(document["openapi"], "3.1.0");
    let mut references = Vec::new();
    members(&document, "$ref", &mut references);
    assert!(references.len() > 100, "{}", references.len());
    for reference in references {
        let pointer = reference.as_str().unwrap().strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some_and(|target| !target.is_null()), "{reference}");
    }
    let mut ids = Vec::new();
    members(&document["paths"], "operationId", &mut ids);
    let distinct: BTreeSet<_> = ids.iter().map(|id| id.as_str().unwrap()).collect();
    assert_eq!(distinct.len(), ids.len());
    let tags: BTreeSet<_> =
        document["tags"].as_array().unwrap().iter().map(|tag| &tag["name"]).map(Value::to_string).collect();
    let mut used = Vec::new();
    members(&document["paths"], "tags", &mut used);
    assert!(used.iter().all(|list| tags.contains(&list[0].to_string())), "{tags:?}");
}

#[test]
fn the_document_has_every_route_with_its_methods_and_no_other_path() {
    let app = App::start();
    let document = document(&app);
    let problem = app.get("/nowhere").problem(404, "no-such-path");
    let routes: BTreeSet<&str> =
        problem["paths"].as_array().unwrap().iter().map(|path| path.as_str().unwrap()).collect();
    let mut described = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        // A command or a report has a path of its own in the document.
        let head = path.rsplit_once('/').unwrap().0;
        let general =
            [path.clone(), format!("{head}/{{command}}"), format!("{head}/{{name}}"), format!("{head}/{{file}}")];
        let route =
            general.iter().find_map(|path| routes.get(path.as_str())).unwrap_or_else(|| panic!("no route {path}"));
        described.insert(*route);
        let real = path.replace("{key}", "0193a5b0-7b2c-7def-8000-123456789abc").replace("{name}", "cart_items");
        let refused = app.request("BREW", &real, &[], None);
        let allowed: BTreeSet<_> = refused.header("Allow").unwrap().split(", ").map(str::to_lowercase).collect();
        let mut methods: BTreeSet<_> = operations.as_object().unwrap().keys().cloned().collect();
        if methods.contains("get") {
            methods.insert("head".to_owned());
        }
        methods.insert("options".to_owned());
        assert_eq!(methods, allowed, "{path}");
    }
    assert_eq!(described, routes);
}

#[test]
fn every_problem_of_the_service_and_every_rule_has_a_schema_and_an_example() {
    let app = App::start();
    let document = document(&app);
    let mut schemas = BTreeMap::new();
    for schema in document["components"]["schemas"].as_object().unwrap().values() {
        if let Some(slug) = schema["properties"]["type"]["const"].as_str() {
            schemas.insert(slug, schema);
        }
    }
    let sources = sources();
    let kinds = sources["http/problem.rs"].lines().filter_map(|line| {
        let (_, rest) = line.split_once("(StatusCode::")?;
        rest.split('"').nth(1)
    });
    let kinds: Vec<_> = kinds.collect();
    assert!(kinds.len() > 20 && kinds.contains(&"not-found"), "{kinds:?}");
    for slug in kinds.iter().chain(&["item-already-added", "insufficient-funds"]) {
        let schema = schemas.get(slug).unwrap_or_else(|| panic!("{slug}"));
        for member in ["type", "title", "status", "detail"] {
            assert!(schema["required"].as_array().unwrap().contains(&json!(member)), "{slug}: {member}");
        }
    }
    for (name, response) in document["components"]["responses"].as_object().unwrap() {
        let examples = response["content"]["application/problem+json"]["examples"].as_object().unwrap();
        for (slug, example) in examples {
            assert_eq!(example["value"]["type"], json!(slug), "{name}");
            assert!(name.starts_with(&example["value"]["status"].to_string()), "{name}: {example}");
            let required = schemas[slug.as_str()]["required"].as_array().unwrap();
            assert!(required.iter().all(|member| example["value"].get(member.as_str().unwrap()).is_some()), "{name}");
        }
    }
    // A real one has the members that its schema requires.
    let cart = app.open_cart();
    app.add_item(&cart, "apple");
    let problem = app.add_item(&cart, "apple").problem(409, "item-already-added");
    for member in schemas["item-already-added"]["required"].as_array().unwrap() {
        assert!(problem.get(member.as_str().unwrap()).is_some(), "{member}");
    }
}

#[test]
fn a_command_has_the_schema_of_its_body() {
    let document = document(&App::start());
    let schema = |path: &str, method: &str, media_type: &str| {
        let schema = &document["paths"][path][method]["requestBody"]["content"][media_type]["schema"];
        document.pointer(schema["$ref"].as_str().unwrap().strip_prefix('#').unwrap()).unwrap().clone()
    };
    let add_item = schema("/carts/{key}/add-item", "post", "application/json");
    assert_eq!(add_item["required"], json!(["item"]));
    assert_eq!(add_item["additionalProperties"], json!(false));
    assert_eq!(add_item["properties"]["item"]["$ref"], "#/components/schemas/Key");
    let person = schema("/persons", "post", "application/json");
    assert_eq!((&person["required"], &person["properties"]["name"]["minLength"]), (&json!(["name"]), &json!(1)));
    let patch = schema("/persons/{key}", "patch", "application/json");
    assert!(patch.get("required").is_none(), "{patch}");
    let close = &document["paths"]["/carts/{key}/close"]["post"]["requestBody"];
    assert_eq!(close["required"], json!(false), "a command without fields needs no body");
}

/// A parcel.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Parcel {
    /// In grams.
    #[schemars(range(min = 1, max = 30_000))]
    weight: u32,
    to: Address,
    note: Option<String>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Address {
    city: Key,
    #[serde(default)]
    lines: Vec<String>,
}

impl Document for Parcel {
    const NAME: &'static str = "parcels";
}

#[derive(Default, Serialize, Deserialize, JsonSchema)]
struct Route {
    grams: u64,
}

impl Derived for Route {
    const NAME: &'static str = "delivery-routes";
    type Source = Parcel;

    fn key(parcel: &Parcel) -> Option<Key> {
        Some(parcel.to.city.clone())
    }
    fn add(&mut self, parcel: &Parcel) {
        self.grams += u64::from(parcel.weight);
    }
    fn remove(&mut self, parcel: &Parcel) {
        self.grams -= u64::from(parcel.weight);
    }
    fn is_empty(&self) -> bool {
        self.grams == 0
    }
}

#[test]
fn an_aggregate_of_ones_own_is_described_by_its_derive() {
    let app = App::serving(|| Service::new().document::<Parcel>().derived::<Route>(), |_| {});
    let document = document(&app);
    let schemas = &document["components"]["schemas"];
    let weight =
        json!({"description": "In grams.", "type": "integer", "format": "uint32", "minimum": 1, "maximum": 30_000});
    assert_eq!(schemas["Parcel"]["properties"]["weight"], weight);
    assert_eq!(schemas["Parcel"]["description"], "A parcel.");
    assert_eq!(schemas["Parcel"]["required"], json!(["weight", "to"]));
    assert_eq!(schemas["Address"]["required"], json!(["city", "lines"]), "what a state always has");
    assert_eq!(schemas["AddressInput"]["required"], json!(["city"]), "what a client must send");
    assert_eq!(schemas["ParcelInput"]["properties"]["to"]["$ref"], "#/components/schemas/AddressInput");
    assert_eq!(schemas["ParcelInput"]["properties"]["note"]["type"], json!(["string", "null"]));
    assert_eq!(schemas["DeliveryRoute"]["properties"]["grams"]["minimum"], 0);
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.contains_key("/delivery-route-events") && paths.contains_key("/parcels/{key}"));
    assert!(paths["/delivery-routes"].get("post").is_none(), "clients can only read it");
    assert!(!paths.keys().any(|path| path.contains("persons") || path.contains("journal") && path.contains("{key}")));
}

#[test]
fn the_document_has_an_etag_and_is_compressed_on_request() {
    let app = App::start();
    let plain = app.get("/openapi.json");
    let tag = plain.header("ETag").unwrap().to_owned();
    let zipped = app.request("GET", "/openapi.json", &[("Accept-Encoding", "gzip")], None);
    assert_eq!(zipped.header("Content-Encoding"), Some("gzip"));
    assert!(zipped.body.len() * 4 < plain.body.len(), "{} of {}", zipped.body.len(), plain.body.len());
    for tag in [tag.as_str(), zipped.header("ETag").unwrap()] {
        let unchanged = app.request("GET", "/openapi.json", &[("If-None-Match", tag)], None);
        assert_eq!((unchanged.status, unchanged.body.len()), (304, 0), "{tag}");
    }
    app.post("/persons", r#"{"name":"Ann"}"#);
    assert_eq!(app.get("/openapi.json").header("ETag"), Some(&tag[..]), "it does not depend on the state");
    app.request("GET", "/openapi.json", &[("Accept", "text/csv")], None).problem(406, "not-acceptable");
}

#[test]
fn the_description_for_people_is_small_and_loads_nothing_from_elsewhere() {
    let app = App::start();
    let page = app.get("/docs");
    assert_eq!((page.status, page.header("Content-Type")), (200, Some("text/html; charset=utf-8")));
    let policy = page.header("Content-Security-Policy").unwrap();
    assert!(policy.starts_with("default-src 'self'; frame-ancestors 'none'"), "{policy}");
    let mut weight = page.body.len();
    for file in
        ["docs.css", "docs.js", "docs_call_view.js", "docs_description.js", "docs_prose.js", "docs_schema_view.js"]
    {
        let response = app.get(&format!("/page/{file}"));
        assert_eq!(response.status, 200, "{file}");
        assert!(!response.text().contains("http://") && !response.text().contains("https://"), "{file}");
        weight += response.body.len();
    }
    assert!(weight <= 40_000, "{weight}");
}
