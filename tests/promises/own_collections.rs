//! Custom collections: what a service provides for each registered collection.

use duality::schemars::{self, JsonSchema};
use duality::{Derived, Document, Key, Service};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::harness::App;

/// Has a nested struct, and a rule that panics.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Parcel {
    to: Address,
    weight: u32,
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Address {
    city: Key,
    street: Option<String>,
}

impl Document for Parcel {
    const NAME: &'static str = "parcels";

    fn validate(&self) -> Result<(), duality::ValidationError> {
        assert!(self.weight != 13, "a bug in a rule");
        Ok(())
    }
}

/// Counts parcels.
#[derive(Default, Serialize, Deserialize, JsonSchema)]
struct Route {
    parcels: u32,
}

impl Derived for Route {
    const NAME: &'static str = "routes";
    type Source = Parcel;

    fn key(parcel: &Parcel) -> Option<Key> {
        Some(parcel.to.city.clone())
    }
    fn add(&mut self, _: &Parcel) {
        self.parcels += 1;
    }
    fn remove(&mut self, _: &Parcel) {
        self.parcels -= 1;
    }
    fn is_empty(&self) -> bool {
        self.parcels == 0
    }
}

/// A later version of the same collection, which adds up weights.
#[derive(Default, Serialize, Deserialize, JsonSchema)]
struct Heavy {
    kilos: u32,
}

impl Derived for Heavy {
    const NAME: &'static str = "routes";
    const VERSION: i64 = 2;
    type Source = Parcel;

    fn key(parcel: &Parcel) -> Option<Key> {
        (parcel.weight > 1).then(|| parcel.to.city.clone())
    }
    fn add(&mut self, parcel: &Parcel) {
        self.kilos += parcel.weight;
    }
    fn remove(&mut self, parcel: &Parcel) {
        self.kilos -= parcel.weight;
    }
    fn is_empty(&self) -> bool {
        self.kilos == 0
    }
}

pub(crate) fn parcels() -> Service {
    Service::new().document::<Parcel>()
}

pub(crate) fn parcels_and_routes() -> Service {
    parcels().derived::<Route>()
}

pub(crate) fn parcels_and_heavy_routes() -> Service {
    parcels().derived::<Heavy>()
}

pub(crate) fn parcel(city: &str, weight: u32) -> String {
    json!({"to": {"city": city}, "weight": weight}).to_string()
}

#[test]
fn registration_provides_routes_and_feeds() {
    let app = App::serving(parcels_and_routes, |_| {});
    assert_eq!(app.post("/parcels", &parcel("Rome", 2)).header("Location"), Some("/parcels/1"));
    assert_eq!(app.get("/parcels/1").text(), r#"{"to":{"city":"Rome"},"weight":2}"#);
    assert_eq!(app.follow("/parcel-events", &[]).next().data, r#"{"1":{"to":{"city":"Rome"},"weight":2}}"#);
    assert_eq!(app.follow("/route-events", &[]).next().data, r#"{"Rome":{"parcels":1}}"#);
    assert_eq!(app.get("/persons").status, 404);
}

#[test]
fn the_index_lists_own_collections_in_the_order_of_their_registration() {
    let app = App::serving(parcels_and_routes, |_| {});
    let index = app.get("/").json();
    let list = index["collections"].as_array().unwrap().iter();
    let of = |collection: &serde_json::Value| ["name", "events", "kind"].map(|member| collection[member].clone());
    let list: Vec<_> = list.map(of).collect();
    assert_eq!(list, [["parcels", "/parcel-events", "state"], ["routes", "/route-events", "derived"]]);
}

#[test]
fn a_nested_member_is_patched_and_validated() {
    let app = App::serving(parcels_and_routes, |_| {});
    app.post("/parcels", &parcel("Rome", 2));
    let patched = app.patch("/parcels/1", r#"{"to":{"city":"Oslo","street":"x"}}"#);
    assert_eq!(patched.text(), r#"{"to":{"city":"Oslo","street":"x"},"weight":2}"#);
    for (patch, member) in [
        (r#"{"to":{"city":".."}}"#, "to.city"),
        (r#"{"to":{"town":"Oslo"}}"#, "to.town"),
        (r#"{"to":{"street":7}}"#, "to.street"),
        (r#"{"to":{"street":"a","street":"b"}}"#, "to.street"),
    ] {
        let response = app.patch("/parcels/1", patch);
        assert_eq!((response.status, response.json()["member"].clone()), (422, json!(member)), "{patch}");
    }
}

#[test]
fn a_command_that_panics_fails_alone() {
    let app = App::serving(parcels_and_routes, |_| {});
    app.post("/parcels", &parcel("Rome", 1));
    std::thread::scope(|scope| {
        let others: Vec<_> = (0..8).map(|_| scope.spawn(|| app.post("/parcels", &parcel("Rome", 1)).status)).collect();
        // A patch is validated against the state, in the middle of a batch.
        let response = app.patch("/parcels/1", r#"{"weight":13}"#);
        assert_eq!((response.status, response.json()["type"].clone()), (500, json!("internal")));
        assert!(!response.text().contains("bug"), "the error is in the log but not in the response");
        // A body that needs no state is validated before it joins a batch.
        assert_eq!(app.post("/parcels", &parcel("Rome", 13)).status, 500);
        assert!(others.into_iter().all(|other| other.join().unwrap() == 201));
    });
    let (parcels, routes) = (app.get("/parcels"), app.get("/routes"));
    assert_eq!((parcels.revision(), routes.text()), (9, r#"{"Rome":{"parcels":9}}"#));
}

#[test]
fn a_collection_derived_later_is_computed_from_all_existing_sources() {
    let mut app = App::serving(parcels, |_| {});
    for (city, weight) in [("Rome", 1), ("Rome", 2), ("Oslo", 3)] {
        app.post("/parcels", &parcel(city, weight));
    }
    app.stop();
    app.resume_serving(parcels_and_routes);
    let routes = app.get("/routes");
    assert_eq!((routes.revision(), routes.text()), (5, r#"{"Oslo":{"parcels":1},"Rome":{"parcels":2}}"#));
    let tag = |path| app.get(path).header("ETag").unwrap().trim_matches('"').split_once('.').unwrap().1.to_owned();
    assert_eq!((tag("/routes"), tag("/parcels")), ("5".to_owned(), "3".to_owned()));
    let event = app.follow("/route-events", &[]).next();
    assert_eq!((event.revision(), event.patch()), (5, routes.json()));
    let mut everything = app.follow("/events", &[("X-Revision", "4")]);
    assert_eq!(everything.next().data, r#"{"routes":{}}"#, "the creation of the collection is a write as well");
    assert_eq!(everything.next().patch(), json!({ "routes": routes.json() }));

    app.stop();
    app.resume_serving(parcels_and_heavy_routes);
    let heavy = app.get("/routes");
    assert_eq!((heavy.revision(), heavy.text()), (6, r#"{"Oslo":{"kilos":3},"Rome":{"kilos":2}}"#));
    assert_ne!(heavy.header("ETag"), routes.header("ETag"));
    let mut state = routes.json();
    app.follow("/route-events", &[("X-Revision", "6")]).follow(&mut state, 6);
    assert_eq!(state, heavy.json());

    app.restart();
    assert_eq!(app.get("/routes").revision(), 6, "the collection was derived only once");
}

#[test]
fn an_unregistered_collection_prevents_the_start() {
    let mut app = App::serving(parcels_and_routes, |_| {});
    app.post("/parcels", &parcel("Rome", 1));
    app.stop();
    // Parcels would change without updating the routes derived from them.
    let refused = app.try_resume_serving(parcels).unwrap_err();
    assert!(refused.contains("routes"), "{refused}");
    app.resume_serving(parcels_and_routes);
    assert_eq!(app.get("/routes").text(), r#"{"Rome":{"parcels":1}}"#);
}
