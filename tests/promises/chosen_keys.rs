//! Documents whose clients choose the keys: one request creates what is not there, and replaces what is.

use duality::schemars::{self, JsonSchema};
use duality::{Derived, Document, Key, Keys, Service};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::harness::App;

/// A country, under its code.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Country {
    name: String,
    continent: Option<Key>,
}

impl Document for Country {
    const NAME: &'static str = "countries";
    const KEYS: Keys = Keys::Text;
}

/// Counts countries.
#[derive(Default, Serialize, Deserialize, JsonSchema)]
struct Continent {
    countries: u32,
}

impl Derived for Continent {
    const NAME: &'static str = "continents";
    type Source = Country;

    fn key(country: &Country) -> Option<Key> {
        country.continent.clone()
    }
    fn add(&mut self, _: &Country) {
        self.countries += 1;
    }
    fn remove(&mut self, _: &Country) {
        self.countries -= 1;
    }
    fn is_empty(&self) -> bool {
        self.countries == 0
    }
}

/// A device, which may know its own uuid.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Device {
    model: String,
}

impl Document for Device {
    const NAME: &'static str = "devices";
    const KEYS: Keys = Keys::Uuid;
}

fn countries() -> Service {
    Service::new().document::<Country>().derived::<Continent>().document::<Device>()
}

fn app() -> App {
    App::serving(countries, |_| {})
}

#[test]
fn a_put_creates_what_is_not_there_and_replaces_what_is() {
    let app = app();
    let created = app.write("PUT", "/countries/de", r#"{"name":"Germany","continent":"europe"}"#);
    assert_eq!((created.status, created.header("Location")), (201, Some("/countries/de")));
    let other = app.write("PUT", "/countries/a%2Fb%20%C3%A4", r#"{"name":"?"}"#);
    assert_eq!((other.status, other.header("Location")), (201, Some("/countries/a%2Fb%20%C3%A4")));
    let replaced = app.write("PUT", "/countries/de", r#"{"name":"Deutschland"}"#);
    assert_eq!((replaced.status, replaced.header("Location")), (200, None));
    assert_eq!(replaced.text(), r#"{"name":"Deutschland"}"#, "members that are not in the body are removed");
    let same = app.write("PUT", "/countries/de", r#"{"name":"Deutschland"}"#);
    assert_eq!((same.status, same.revision()), (200, 3), "nothing has changed");
    assert_eq!(app.patch("/countries/de", r#"{"continent":"europe"}"#).status, 200);
    assert_eq!(app.get("/continents").text(), r#"{"europe":{"countries":1}}"#);
    assert_eq!(
        app.get("/countries").json(),
        json!({
            "a/b ä": {"name": "?"}, "de": {"name": "Deutschland", "continent": "europe"},
        })
    );
    let mut feed = app.follow("/country-events", &[]);
    assert_eq!(feed.next().data, r#"{"de":{"name":"Germany","continent":"europe"}}"#);
    assert_eq!(feed.next().data, r#"{"a/b ä":{"name":"?"}}"#);
    assert_eq!(feed.next().patch(), json!({"de": {"name": "Deutschland", "continent": null}}));
}

#[test]
fn only_a_put_creates() {
    let app = app();
    let nameless = app.post("/countries", r#"{"name":"Germany"}"#);
    assert_eq!((nameless.status, nameless.header("Allow")), (405, Some("GET, HEAD, OPTIONS")));
    app.patch("/countries/de", r#"{"name":"Germany"}"#).problem(404, "not-found");
    app.delete("/countries/de").problem(404, "not-found");
    assert_eq!(app.get("/countries").revision(), 0);
    let invalid = app.write("PUT", "/countries/de", r#"{"continent":"europe"}"#).problem(422, "invalid");
    assert_eq!(invalid["member"], "name");
    assert_eq!(app.get("/countries").text(), "{}");
}

#[test]
fn a_key_is_free_again_after_a_deletion_and_never_after_an_erasure() {
    let app = app();
    let germany = r#"{"name":"Germany"}"#;
    assert_eq!(app.write("PUT", "/countries/de", germany).status, 201);
    assert_eq!(app.delete("/countries/de").status, 204);
    assert_eq!(app.write("PUT", "/countries/de", germany).status, 201);
    let erasure = app.post("/-/erase", r#"{"collection":"countries","key":"de"}"#);
    assert!([200, 202].contains(&erasure.status), "{}", erasure.text());
    app.write("PUT", "/countries/de", germany).problem(409, "erased");
}

#[test]
fn conditions_say_whether_a_put_may_create_or_replace() {
    let app = app();
    let put = |condition: &str, value: &str, name: &str| {
        let headers = [("Content-Type", "application/json"), (condition, value)];
        app.request("PUT", "/countries/de", &headers, Some(json!({"name": name}).to_string().as_bytes()))
    };
    put("If-Match", "*", "Germany").problem(412, "unexpected-state");
    let created = put("If-None-Match", "*", "Germany");
    assert_eq!(created.status, 201);
    put("If-None-Match", "*", "Deutschland").problem(412, "unexpected-state");
    let tag = created.header("ETag").unwrap();
    assert_eq!(put("If-Match", tag, "Deutschland").status, 200);
    let stale = put("If-Match", tag, "Allemagne").problem(412, "unexpected-state");
    assert_eq!(stale["expected"], json!([tag]), "{stale}");
    assert_eq!(put("If-Match", "*", "Germany").status, 200);
    assert_eq!(app.get("/countries").revision(), 3);
}

#[test]
fn a_repeated_put_gets_the_answer_that_it_got_first() {
    let app = app();
    let put = |name: &str| {
        let headers = [("Content-Type", "application/json"), ("Idempotency-Key", "\"k1\"")];
        app.request("PUT", "/countries/de", &headers, Some(json!({"name": name}).to_string().as_bytes()))
    };
    let first = put("Germany");
    assert_eq!(app.write("PUT", "/countries/de", r#"{"name":"Deutschland"}"#).status, 200);
    let again = put("Germany");
    assert_eq!((first.status, again.status, again.revision()), (201, 201, first.revision()));
    assert_eq!((again.text(), again.header("Idempotency-Replayed")), (first.text(), Some("true")));
    assert_eq!(app.get("/countries/de").text(), r#"{"name":"Deutschland"}"#);
}

#[test]
fn a_document_with_a_uuid_gets_one_or_brings_its_own() {
    let app = app();
    let given = app.post("/devices", r#"{"model":"a"}"#);
    let path = given.header("Location").unwrap();
    assert_eq!((given.status, app.get(path).text()), (201, r#"{"model":"a"}"#));
    let own = "/devices/0193a5b0-7b2c-4def-8000-123456789abc";
    assert_eq!(app.write("PUT", own, r#"{"model":"b"}"#).status, 201);
    assert_eq!(app.write("PUT", own, r#"{"model":"c"}"#).status, 200);
    let wrong = app.write("PUT", "/devices/7", r#"{"model":"d"}"#).problem(422, "invalid");
    assert!(wrong["detail"].as_str().unwrap().contains("expected a lower-case uuid"), "{wrong}");
    assert_eq!(app.get("/devices").json().as_object().unwrap().len(), 2);
}

#[test]
fn the_index_and_the_description_say_who_chooses_a_key() {
    let app = app();
    let index = app.request("GET", "/", &[("Accept", "application/json")], None).json();
    let described: Vec<_> = index["collections"].as_array().unwrap().iter().collect();
    let of = |name: &str| described.iter().find(|collection| collection["name"] == name).copied().unwrap();
    assert_eq!((&of("countries")["keys"], &of("countries")["create"]), (&json!("text"), &json!(false)));
    assert_eq!((&of("devices")["keys"], &of("devices")["create"]), (&json!("uuid"), &json!(true)));
    let put = app.get("/openapi.json").json()["paths"]["/countries/{key}"]["put"].clone();
    for status in ["200", "201", "412", "422"] {
        assert!(put["responses"][status].is_object(), "{status} in {put}");
    }
    assert!(put["responses"]["404"].is_null(), "{put}");
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct NumberedCountry {
    name: String,
    continent: Option<Key>,
}

impl Document for NumberedCountry {
    const NAME: &'static str = "countries";
}

fn numbered() -> Service {
    Service::new().document::<NumberedCountry>()
}

fn keyed() -> Service {
    Service::new().document::<Country>()
}

#[test]
fn a_collection_that_assigns_keys_again_skips_the_numbers_that_clients_have_chosen() {
    let mut app = App::serving(numbered, |_| {});
    assert_eq!(app.post("/countries", r#"{"name":"Germany"}"#).header("Location"), Some("/countries/1"));
    app.stop();
    app.resume_serving(keyed);
    assert_eq!(app.write("PUT", "/countries/1", r#"{"name":"Deutschland"}"#).status, 200);
    assert_eq!(app.write("PUT", "/countries/7", r#"{"name":"France"}"#).status, 201);
    assert_eq!(app.write("PUT", "/countries/9", r#"{"name":"Spain"}"#).status, 201);
    let erasure = app.post("/-/erase", r#"{"collection":"countries","key":"9"}"#);
    assert!([200, 202].contains(&erasure.status), "{}", erasure.text());
    assert_eq!(app.write("PUT", "/countries/123456789012345678901234567890", r#"{"name":"Italy"}"#).status, 201);
    app.stop();
    app.resume_serving(numbered);
    assert_eq!(app.post("/countries", r#"{"name":"Poland"}"#).header("Location"), Some("/countries/10"));
    assert_eq!(app.post("/countries", r#"{"name":"Malta"}"#).header("Location"), Some("/countries/11"));
    app.write("PUT", "/countries/20", r#"{"name":"Sweden"}"#).problem(404, "not-found");
    assert_eq!(app.get("/countries/7").text(), r#"{"name":"France"}"#);
}
