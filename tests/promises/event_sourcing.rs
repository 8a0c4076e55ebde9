//! Event-sourced aggregates against a model: responses, the journal, the feeds and time travel agree with it and with
//! each other.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::{Value, json};

use crate::harness::{App, Client, Random, Response, cases};

#[derive(Debug, Clone)]
enum Op {
    /// Creates one with a key from the service.
    Create(Kind),
    /// Creates one with one of three keys.
    Open(Kind, u8),
    AddItem(u8, u8),
    RemoveItem(u8, u8),
    Close(u8),
    Book(u8, i64),
    /// Reverts one of the account's bookings, or one that does not exist.
    Revert(u8, u8),
    ClosePeriod(u8),
    /// An invalid command.
    Nonsense(u8),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Cart,
    Account,
}

impl Kind {
    fn path(self) -> &'static str {
        match self {
            Self::Cart => "/carts",
            Self::Account => "/accounts",
        }
    }

    fn key(self, number: u8) -> String {
        format!("{}/00000000-0000-4000-8000-00000000000{}", self.path(), number % 3)
    }
}

/// The model: every state of every aggregate, in the order of its events.
#[derive(Default)]
struct Model {
    histories: BTreeMap<String, Vec<Value>>,
    /// The paths and kinds of all events, in order.
    journal: Vec<(String, &'static str)>,
}

/// A request, and its expected outcome.
struct Sent {
    method: &'static str,
    path: String,
    body: Value,
    expected: Result<Effect, &'static str>,
}

/// The effect of an accepted command.
enum Effect {
    Opened(Kind),
    Added(String),
    Removed(String),
    Closed,
    Booked(i64),
    Reverted(String),
    PeriodClosed,
}

impl Effect {
    fn kind(&self) -> &'static str {
        match self {
            Self::Opened(Kind::Cart) => "CartOpened",
            Self::Opened(Kind::Account) => "AccountOpened",
            Self::Added(_) => "ItemAdded",
            Self::Removed(_) => "ItemRemoved",
            Self::Closed => "CartClosed",
            Self::Booked(_) => "AmountBooked",
            Self::Reverted(_) => "BookingReverted",
            Self::PeriodClosed => "PeriodClosed",
        }
    }
}

/// The largest amount and balance.
const MOST: i64 = (1 << 53) - 1;

impl Model {
    fn state(&self, path: &str) -> Option<&Value> {
        self.histories.get(path)?.last()
    }

    /// The revision, which equals the number of events because every event of these aggregates changes the state.
    fn revision(&self) -> i64 {
        i64::try_from(self.journal.len()).unwrap()
    }

    /// The expected outcome of a command, from an independent formulation of the rules.
    #[expect(clippy::too_many_lines, reason = "one arm for each command")]
    fn expect(&self, op: &Op) -> Sent {
        let sent = |method, path: String, body, expected| Sent { method, path, body, expected };
        match op {
            Op::Create(kind) => sent("POST", kind.path().to_owned(), json!({}), Ok(Effect::Opened(*kind))),
            Op::Open(kind, number) => {
                let path = kind.key(*number);
                let slug = if *kind == Kind::Cart { "cart-already-open" } else { "account-already-open" };
                let expected = if self.state(&path).is_some() { Err(slug) } else { Ok(Effect::Opened(*kind)) };
                sent("PUT", path, json!({}), expected)
            }
            Op::AddItem(cart, item) => {
                let (path, item) = (Kind::Cart.key(*cart), format!("item-{}", item % 3));
                let expected = self.open_cart(&path).and_then(|cart| match cart["items"].get(&item) {
                    Some(_) => Err("item-already-added"),
                    None => Ok(Effect::Added(item.clone())),
                });
                sent("POST", path + "/add-item", json!({ "item": item }), expected)
            }
            Op::RemoveItem(cart, item) => {
                let (path, item) = (Kind::Cart.key(*cart), format!("item-{}", item % 3));
                let expected = self.open_cart(&path).and_then(|cart| match cart["items"].get(&item) {
                    Some(_) => Ok(Effect::Removed(item.clone())),
                    None => Err("item-not-in-cart"),
                });
                sent("POST", path + "/remove-item", json!({ "item": item }), expected)
            }
            Op::Close(cart) => {
                let path = Kind::Cart.key(*cart);
                let expected = self.open_cart(&path).map(|_| Effect::Closed);
                sent("POST", path + "/close", json!({}), expected)
            }
            Op::Book(account, amount) => {
                let path = Kind::Account.key(*account);
                let expected = self.bookable(&path, *amount).map(|()| Effect::Booked(*amount));
                sent("POST", path + "/book", json!({"amount": amount, "text": "rent"}), expected)
            }
            Op::Revert(account, choice) => {
                let path = Kind::Account.key(*account);
                let bookings = self.state(&path).and_then(|state| state["bookings"].as_object());
                let known: Vec<_> = bookings.into_iter().flatten().collect();
                let chosen = known.get(usize::from(*choice) % (known.len() + 1));
                let booking = chosen.map_or("none", |(booking, _)| booking);
                let expected = match (self.state(&path), chosen) {
                    (None, _) => Err("not-found"),
                    (_, None) => Err("booking-not-found"),
                    (_, Some((_, booking))) if booking["reverted"] == true => Err("already-reverted"),
                    (_, Some((key, booking))) => self
                        .bookable(&path, -booking["amount"].as_i64().unwrap())
                        .map(|()| Effect::Reverted((*key).clone())),
                };
                sent("POST", path + "/revert-booking", json!({ "booking": booking }), expected)
            }
            Op::ClosePeriod(account) => {
                let path = Kind::Account.key(*account);
                let expected = match self.state(&path).map(|state| state["bookings"].as_object().unwrap().len()) {
                    None => Err("not-found"),
                    Some(0) => Err("period-empty"),
                    Some(_) => Ok(Effect::PeriodClosed),
                };
                sent("POST", path + "/close-period", json!({}), expected)
            }
            Op::Nonsense(number) => match number % 4 {
                0 => sent("POST", Kind::Cart.key(*number) + "/add-item", json!({"item": 7}), Err("invalid")),
                1 => sent("POST", Kind::Cart.key(*number) + "/melt", json!({}), Err("unknown-command")),
                2 => sent("PUT", "/carts/mine".to_owned(), json!({}), Err("invalid")),
                _ => sent("PUT", Kind::Account.key(*number), json!({"balance": 5}), Err("invalid")),
            },
        }
    }

    fn open_cart(&self, path: &str) -> Result<&Value, &'static str> {
        let cart = self.state(path).ok_or("not-found")?;
        if cart["status"] == "open" { Ok(cart) } else { Err("cart-already-closed") }
    }

    fn bookable(&self, path: &str, amount: i64) -> Result<(), &'static str> {
        if amount.abs() > MOST {
            // A body is checked before the account.
            return Err("invalid");
        }
        let balance = self.state(path).ok_or("not-found")?["balance"].as_i64().unwrap();
        match balance + amount {
            after if after > MOST => Err("amount-too-large"),
            after if after < 0 => Err("insufficient-funds"),
            _ => Ok(()),
        }
    }

    /// Applies an effect; only identities and times are taken from the response.
    fn apply(&mut self, path: &str, effect: &Effect, answered: &Value) {
        let mut state = self.state(path).cloned().unwrap_or_default();
        match effect {
            Effect::Opened(Kind::Cart) => state = json!({"status": "open", "items": {}}),
            Effect::Opened(Kind::Account) => state = json!({"balance": 0, "bookings": {}}),
            Effect::Added(item) => {
                let time = answered["items"][item]["added"].as_str().unwrap();
                assert!(time.starts_with("20") && time.ends_with('Z'), "{time}");
                state["items"][item] = json!({ "added": time });
            }
            Effect::Removed(item) => drop(state["items"].as_object_mut().unwrap().remove(item)),
            Effect::Closed => state["status"] = json!("closed"),
            Effect::Booked(amount) => {
                let bookings = answered["bookings"].as_object().unwrap();
                let new: Vec<_> = bookings.keys().filter(|key| state["bookings"].get(*key).is_none()).collect();
                assert_eq!(new.len(), 1, "each command adds one booking");
                state["bookings"][new[0]] = json!({"amount": amount, "text": "rent"});
                state["balance"] = json!(state["balance"].as_i64().unwrap() + amount);
            }
            Effect::Reverted(booking) => {
                state["bookings"][booking]["reverted"] = json!(true);
                let amount = state["bookings"][booking]["amount"].as_i64().unwrap();
                state["balance"] = json!(state["balance"].as_i64().unwrap() - amount);
            }
            Effect::PeriodClosed => {
                state["carried_over"] = state["balance"].clone();
                state["bookings"] = json!({});
            }
        }
        self.histories.entry(path.to_owned()).or_default().push(state);
        self.journal.push((path.to_owned(), effect.kind()));
    }
}

fn ops() -> impl Strategy<Value = Op> {
    let kind = || prop_oneof![Just(Kind::Cart), Just(Kind::Account)];
    let amount = prop_oneof![8 => -60..100_i64, 1 => prop_oneof![Just(MOST), Just(MOST + 1), Just(i64::MIN + 1)]];
    prop_oneof![
        1 => kind().prop_map(Op::Create),
        6 => (kind(), any::<u8>()).prop_map(|(kind, number)| Op::Open(kind, number)),
        5 => (any::<u8>(), any::<u8>()).prop_map(|(cart, item)| Op::AddItem(cart, item)),
        3 => (any::<u8>(), any::<u8>()).prop_map(|(cart, item)| Op::RemoveItem(cart, item)),
        1 => any::<u8>().prop_map(Op::Close),
        6 => (any::<u8>(), amount).prop_map(|(account, amount)| Op::Book(account, amount)),
        3 => (any::<u8>(), any::<u8>()).prop_map(|(account, choice)| Op::Revert(account, choice)),
        1 => any::<u8>().prop_map(Op::ClosePeriod),
        1 => any::<u8>().prop_map(Op::Nonsense),
    ]
}

fn get(client: &mut Client, path: &str) -> Response {
    client.request("GET", path, &[("Accept", "application/json")], None)
}

/// Everything that a rejected command must leave unchanged.
fn everything(client: &mut Client) -> (Value, String, i64) {
    let (journal, document) = (get(client, "/journal"), get(client, "/aggregates"));
    (journal.json(), document.text().to_owned(), document.revision())
}

/// Sends a command, and compares its response and its effect with the model.
fn step(app: &App, client: &mut Client, model: &mut Model, op: &Op) -> Result<(), TestCaseError> {
    let Sent { method, path, body, expected } = model.expect(op);
    let before = expected.is_err().then(|| everything(client));
    let response = app.write(method, &path, &body.to_string());
    match expected {
        Ok(effect) => {
            let new = matches!(effect, Effect::Opened(_));
            prop_assert_eq!(response.status, if new { 201 } else { 200 }, "{}", response.text());
            prop_assert_eq!(response.revision(), model.revision() + 1);
            let segments: Vec<_> = path.split('/').take(3).collect();
            let aggregate = response.header("Location").map_or(segments.join("/"), str::to_owned);
            model.apply(&aggregate, &effect, &response.json());
            prop_assert_eq!(Some(&response.json()), model.state(&aggregate));
        }
        Err(slug) => {
            let problem = response.json();
            prop_assert_eq!(&problem["type"], slug, "{}", problem);
            prop_assert_eq!(&problem["status"], response.status);
            prop_assert!((400..500).contains(&response.status));
            prop_assert_eq!(response.revision(), model.revision());
            prop_assert_eq!(Some(everything(client)), before, "a rejected command leaves nothing behind");
        }
    }
    Ok(())
}

/// Compares the journal and every version of every aggregate with the model.
fn compare(client: &mut Client, model: &Model) -> Result<(), TestCaseError> {
    let journal = get(client, "/journal").json();
    let events = journal["events"].as_array().unwrap();
    let recorded: Vec<_> = events
        .iter()
        .map(|event| {
            format!("/{}/{} {}", event["collection"].as_str().unwrap(), event["key"].as_str().unwrap(), event["kind"])
        })
        .collect();
    let expected: Vec<_> = model.journal.iter().map(|(path, kind)| format!("{path} {}", json!(kind))).collect();
    prop_assert_eq!(recorded, expected);
    prop_assert!(
        events.iter().zip(1..).all(|(event, position)| event["position"] == position),
        "positions have no gap"
    );
    for (path, history) in &model.histories {
        let own = get(client, &format!("{path}/journal")).json();
        let versions: Vec<_> = own["events"].as_array().unwrap().iter().map(|event| event["version"].clone()).collect();
        prop_assert_eq!(versions, (1..=history.len()).map(Value::from).collect::<Vec<_>>());
        prop_assert_eq!(&get(client, path).json(), &history[history.len() - 1]);
        for (version, state) in (1..).zip(history) {
            prop_assert_eq!(&get(client, &format!("{path}?version={version}")).json(), state, "{}", version);
        }
        for version in [0, history.len() + 1] {
            prop_assert_eq!(get(client, &format!("{path}?version={version}")).status, 404);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(160), failure_persistence: None, rng_seed: RngSeed::Fixed(2026), max_shrink_time: 30_000, ..ProptestConfig::default() })]
    #[test]
    fn responses_journal_feeds_and_time_travel_match_the_model(ops in prop::collection::vec(ops(), 1..24)) {
        // Frequent bookmarks make every feed reach every revision.
        let app = App::with(|settings| settings.heartbeat = Duration::from_millis(20));
        let mut client = app.client();
        const FEEDS: [(&str, &str); 3] =
            [("/cart-events", "/carts"), ("/account-events", "/accounts"), ("/events", "/aggregates")];
        let mut streams = FEEDS.map(|(feed, _)| app.follow(feed, &[]));
        let mut model = Model::default();
        for op in &ops {
            step(&app, &mut client, &mut model, op)?;
        }
        compare(&mut client, &model)?;
        for (stream, (_, path)) in streams.iter_mut().zip(FEEDS) {
            let (mut state, fresh) = (Value::Null, get(&mut client, path));
            // Without any revision, there is only the empty state.
            if fresh.revision() == 0 {
                json_patch::merge(&mut state, &stream.message().unwrap().patch());
            } else {
                stream.follow(&mut state, fresh.revision());
            }
            prop_assert_eq!(state, fresh.json(), "{}", path);
        }
    }
}

const BOOKERS: u64 = 16;
const BOOKINGS: u64 = 24;

/// The text of the last booking, so that the follower knows when it has everything.
const END: &str = "the end";

/// Books amounts with unique texts, occasionally reverts one, and returns the successful bookings and reversals.
fn book(app: &App, path: &str, booker: u64) -> (Vec<(String, i64)>, Vec<String>) {
    let (mut client, mut random) = (app.client(), Random::new(booker));
    let (mut booked, mut reverted) = (Vec::<(String, i64)>::new(), Vec::new());
    let mut ids = Vec::new();
    for number in 0..BOOKINGS {
        let (text, amount) = (format!("{booker}-{number}"), i64::try_from(random.below(200)).unwrap() - 90);
        let revert = random.below(4) == 0 && !ids.is_empty();
        let (command, body) = match revert {
            true => ("revert-booking", json!({ "booking": random.one_of(&ids) })),
            false => ("book", json!({"amount": amount, "text": text})),
        };
        let headers = [("Content-Type", "application/json")];
        let response =
            client.request("POST", &format!("{path}/{command}"), &headers, Some(body.to_string().as_bytes()));
        let answer = response.json();
        match (response.status, revert) {
            (200, true) => reverted.push(body["booking"].as_str().unwrap().to_owned()),
            (200, false) => {
                let mut bookings = answer["bookings"].as_object().unwrap().iter();
                ids.push(bookings.find(|(_, booking)| booking["text"] == text.as_str()).unwrap().0.clone());
                booked.push((text, amount));
            }
            (409, _) => assert!(answer["type"] == "insufficient-funds" || answer["type"] == "already-reverted"),
            (status, _) => panic!("{status}: {answer}"),
        }
    }
    (booked, reverted)
}

#[test]
fn a_balance_never_goes_below_zero_under_concurrent_bookings() {
    let app = App::start();
    let path = app.post("/accounts", "{}").header("Location").unwrap().to_owned();
    let mut feed = app.follow(&format!("{path}/events"), &[]);
    let (mut booked, mut reverted) = (BTreeSet::new(), BTreeSet::new());
    std::thread::scope(|scope| {
        let bookers: Vec<_> = (1..=BOOKERS)
            .map(|booker| {
                scope.spawn({
                    let (app, path) = (&app, &path);
                    move || book(app, path, booker)
                })
            })
            .collect();
        let follower = scope.spawn(|| {
            let (mut state, mut seen) = (Value::Null, 0);
            while !state["bookings"].as_object().is_some_and(|all| all.values().any(|one| one["text"] == END)) {
                json_patch::merge(&mut state, &feed.next().patch());
                assert!(state["balance"].as_i64().unwrap() >= 0, "{state}");
                seen += 1;
            }
            (state, seen)
        });
        for (more, undone) in bookers.into_iter().map(|booker| booker.join().unwrap()) {
            booked.extend(more);
            reverted.extend(undone);
        }
        assert_eq!(app.post(&format!("{path}/book"), &json!({"amount": 1, "text": END}).to_string()).status, 200);
        booked.insert((END.to_owned(), 1));
        let (state, seen) = follower.join().unwrap();
        assert!(seen > 1);
        let account = app.get(&path).json();
        assert_eq!(state, account);

        let all = account["bookings"].as_object().unwrap();
        let text_and_amount = |one: &Value| (one["text"].as_str().unwrap().to_owned(), one["amount"].as_i64().unwrap());
        assert_eq!(all.len(), booked.len());
        assert_eq!(all.values().map(text_and_amount).collect::<BTreeSet<_>>(), booked);
        let undone = all.iter().filter(|(_, one)| one["reverted"] == true).map(|(key, _)| key.clone());
        assert_eq!(undone.collect::<BTreeSet<_>>(), reverted);
        let counted = all.values().filter(|one| one["reverted"] != true).map(|one| text_and_amount(one).1);
        assert_eq!(account["balance"], counted.sum::<i64>());
        assert!(!reverted.is_empty());
    });
}
