//! The carrier against a real server, which each test starts.

mod erasing;
mod server;

use std::time::Duration;

use serde_json::json;

use self::server::NatsServer;
use super::{Broker, NatsCarrier, Owner};
use crate::domain::clock::Timestamp;
use crate::domain::key::Key;
use crate::publish::address::BrokerUrl;
use crate::publish::carrier::{Carrier, CarrierError, Output, Position, Stored};
use crate::publish::message::{Content, Message, Part};

/// A change of one aggregate.
fn change(collection: &str, key: &str, revision: i64) -> Message {
    Message {
        collection: collection.to_owned(),
        key: Some(Key::parse(key).unwrap()),
        id: format!("4f9c21aa.{revision}"),
        part: Part { number: 1, of: 1 },
        previous: Some(revision - 1),
        content: Content::Change,
        time: Timestamp::from_milliseconds(1_764_000_000_123),
        body: format!(r#"{{"n":{revision}}}"#),
    }
}

fn changes(revisions: std::ops::RangeInclusive<i64>) -> Vec<Message> {
    revisions.map(|revision| change("tasks", &revision.to_string(), revision)).collect()
}

fn broker(urls: &[&str]) -> Broker {
    let addresses = urls.iter().map(|url| BrokerUrl::from(*url).address().unwrap()).collect();
    let (stream, prefix) = ("duality".to_owned(), "duality".to_owned());
    Broker { addresses, credentials: None, authorities: None, stream, prefix, size: 4 << 20 }
}

/// A service with a database of its own.
fn owner(name: &str) -> Owner {
    Owner { name: name.to_owned(), record: name.to_owned() }
}

fn carrier(server: &NatsServer, name: &str) -> NatsCarrier {
    NatsCarrier::new(broker(&[&server.url()]), Output::Changes, &owner(name))
}

/// Runs a test as a publisher runs its carrier: on one thread.
fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

/// Asks again until the server is there, and nobody else has the stream.
async fn position(carrier: &mut NatsCarrier) -> Position {
    for _ in 0..20 {
        if let Ok(position) = carrier.position().await {
            return position;
        }
    }
    panic!("{}", carrier.position().await.unwrap_err());
}

#[test]
fn what_is_appended_is_there_in_order_and_the_last_message_is_read_back() {
    let Some(server) = NatsServer::start() else { return };
    run(async {
        let mut carrier = carrier(&server, "one");
        assert_eq!(carrier.position().await.unwrap(), Position { first: 1, last: 0, message: None });
        // More than are sent together.
        let messages = changes(1..=2500);
        carrier.append(0, &messages).await.unwrap();
        let last = messages.last().cloned();
        assert_eq!(carrier.position().await.unwrap(), Position { first: 1, last: 2500, message: last });
        for number in [1, 1000, 1001, 2000] {
            let stored = carrier.place.message(&carrier.connection, number).await.unwrap();
            assert_eq!(stored.as_ref(), messages.get(usize::try_from(number).unwrap() - 1));
        }
        carrier.append(2500, &[]).await.unwrap();
        carrier.append(2500, &[change("tasks", "St. Gallen * > 😀", 2501)]).await.unwrap();
        let position = carrier.position().await.unwrap();
        assert_eq!((position.last, position.message.unwrap().key.unwrap().as_str()), (2501, "St. Gallen * > 😀"));
    });
}

#[test]
fn both_outputs_have_a_stream_of_their_own() {
    let Some(server) = NatsServer::start() else { return };
    run(async {
        let mut changes = carrier(&server, "one");
        let mut journal = NatsCarrier::new(broker(&[&server.url()]), Output::Journal, &owner("one"));
        changes.position().await.unwrap();
        journal.position().await.unwrap();
        changes.append(0, &[change("journal", "1", 1)]).await.unwrap();
        let event = Content::Event { kind: "item-added".to_owned(), schema: 1, version: 1 };
        let event = Message { content: event, ..change("shopping-carts", "1", 1) };
        journal.append(0, std::slice::from_ref(&event)).await.unwrap();
        assert_eq!(changes.position().await.unwrap().message, Some(change("journal", "1", 1)));
        assert_eq!(journal.position().await.unwrap().message, Some(event));
    });
}

#[test]
fn a_stream_with_other_messages_than_expected_takes_none() {
    let Some(server) = NatsServer::start() else { return };
    run(async {
        let mut carrier = carrier(&server, "one");
        carrier.position().await.unwrap();
        carrier.append(0, &changes(1..=3)).await.unwrap();
        for expected in [2, 4] {
            let conflict = carrier.append(expected, &changes(10..=12)).await.unwrap_err();
            assert!(matches!(conflict, CarrierError::Conflict), "{conflict}");
            assert_eq!(carrier.position().await.unwrap().last, 3);
        }
        carrier.append(3, &changes(4..=5)).await.unwrap();
        assert_eq!(carrier.position().await.unwrap().last, 5);
    });
}

#[test]
fn messages_with_ids_that_the_server_has_seen_are_there_once_more_if_they_are_appended_again() {
    let Some(server) = NatsServer::start() else { return };
    run(async {
        let mut carrier = carrier(&server, "one");
        let first = server.client().await;
        // Somebody created it with a long window.
        let config = json!({ "name": "duality", "subjects": ["duality.*.*"], "retention": "limits", "storage": "file",
            "discard": "old", "num_replicas": 1, "duplicate_window": 120_000_000_000_u64 });
        let created = first.request("$JS.API.STREAM.CREATE.duality", config.to_string().into()).await.unwrap();
        assert!(!String::from_utf8_lossy(&created.payload).contains("error"), "{created:?}");
        carrier.position().await.unwrap();
        carrier.append(0, &changes(1..=4)).await.unwrap();
        carrier.reset(5).await.unwrap();
        // All of them, some at the begin, some in the middle, the last one.
        let mut last = 4;
        for again in [changes(1..=4), changes(3..=6), changes(6..=8), changes(8..=8)] {
            carrier.append(last, &again).await.unwrap();
            last += again.len() as u64;
            let position = carrier.position().await.unwrap();
            assert_eq!((position.last, position.message.as_ref()), (last, again.last()));
        }
        let mixed = [changes(20..=21), changes(2..=2), changes(22..=22)].concat();
        carrier.append(last, &mixed).await.unwrap();
        for (number, message) in (last + 1..).zip(&mixed) {
            assert_eq!(carrier.place.message(&carrier.connection, number).await.unwrap().as_ref(), Some(message));
        }
        assert_eq!(carrier.position().await.unwrap().last, last + 4);
    });
}

#[test]
fn a_reset_removes_the_messages_before_a_number() {
    let Some(server) = NatsServer::start() else { return };
    run(async {
        let mut carrier = carrier(&server, "one");
        carrier.position().await.unwrap();
        carrier.append(0, &changes(1..=5)).await.unwrap();
        carrier.reset(1).await.unwrap();
        assert_eq!(carrier.position().await.unwrap().first, 1);
        carrier.reset(4).await.unwrap();
        let position = carrier.position().await.unwrap();
        assert_eq!((position.first, position.last), (4, 5));
        assert!(position.message.is_some());
        carrier.reset(6).await.unwrap();
        assert_eq!(carrier.position().await.unwrap(), Position { first: 6, last: 5, message: None });
        carrier.append(5, &changes(6..=6)).await.unwrap();
        assert_eq!(carrier.position().await.unwrap().first, 6);
    });
}

#[test]
fn the_last_message_of_a_collection_is_found_and_messages_of_others_are_none() {
    let Some(server) = NatsServer::start() else { return };
    run(async {
        let mut carrier = carrier(&server, "one");
        carrier.position().await.unwrap();
        assert_eq!(carrier.last_of("tasks").await.unwrap(), None);
        let whole = Message { key: None, ..change("places", "1", 4) };
        let messages = [change("tasks", "7", 1), change("tasks", "2", 2), change("person", "9", 3), whole.clone()];
        carrier.append(0, &messages).await.unwrap();
        let found = Stored { number: 2, message: change("tasks", "2", 2) };
        assert_eq!(carrier.last_of("tasks").await.unwrap(), Some(found));
        assert_eq!(carrier.last_of("places").await.unwrap(), Some(Stored { number: 4, message: whole }));
        assert_eq!(carrier.last_of("accounts").await.unwrap(), None);

        let stranger = server.client().await;
        stranger.request("duality.tasks.3", "{}".into()).await.unwrap();
        let position = carrier.position().await.unwrap();
        assert_eq!((position.last, position.message), (5, None));
    });
}

#[test]
fn a_second_service_is_refused_with_the_name_of_the_first_and_takes_over_when_that_is_gone() {
    let Some(server) = NatsServer::start() else { return };
    run(async {
        let mut first = carrier(&server, "the database /srv/shop.db");
        first.position().await.unwrap();
        first.append(0, &changes(1..=2)).await.unwrap();
        let mut second = carrier(&server, "the database /srv/copy.db");
        for _ in 0..2 {
            let error = second.position().await.unwrap_err().to_string();
            assert!(
                error.starts_with("another service publishes into this stream: the database /srv/shop.db"),
                "{error}"
            );
            assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
            assert!(second.append(2, &changes(3..=3)).await.is_err());
        }
        // It is not disturbed.
        first.append(2, &changes(3..=4)).await.unwrap();
        let mut elsewhere = broker(&[&server.url()]);
        (elsewhere.stream, elsewhere.prefix) = ("other".to_owned(), "other".to_owned());
        NatsCarrier::new(elsewhere, Output::Changes, &owner("other")).position().await.unwrap();
        drop(first);
        assert_eq!(position(&mut second).await.last, 4);
        second.append(4, &changes(5..=5)).await.unwrap();
    });
}

#[test]
fn of_services_that_start_at_the_same_time_one_publishes() {
    let Some(server) = NatsServer::start() else { return };
    run(async {
        let mut carriers: Vec<_> = (0..4).map(|number| carrier(&server, &number.to_string())).collect();
        let [one, two, three, four] = &mut carriers[..] else { unreachable!() };
        let positions = tokio::join!(one.position(), two.position(), three.position(), four.position());
        let positions = [positions.0, positions.1, positions.2, positions.3];
        let refused = positions.iter().filter(|position| matches!(position, Err(CarrierError::Taken(_)))).count();
        let owners = positions.iter().filter(|position| position.is_ok()).count();
        assert_eq!((owners, refused), (1, 3), "{positions:?}");
    });
}

#[test]
fn a_service_that_others_have_passed_asks_again() {
    let Some(server) = NatsServer::start() else { return };
    run(async {
        let mut first = carrier(&server, "one");
        first.position().await.unwrap();
        // As if the question had not reached the first one.
        let mut second = carrier(&server, "two");
        second.ownership.pretend(&second.connection.client().await.unwrap()).await;
        second.append(0, &changes(1..=1)).await.unwrap();
        let conflict = first.append(0, &changes(5..=5)).await.unwrap_err();
        assert!(matches!(conflict, CarrierError::Conflict), "{conflict}");
        let refused = first.position().await.unwrap_err();
        assert!(matches!(&refused, CarrierError::Taken(other) if other.starts_with("two, process")), "{refused}");
        second.append(1, &changes(2..=2)).await.unwrap();
    });
}

#[test]
fn a_service_that_did_not_answer_in_time_hears_that_another_one_publishes() {
    let Some(server) = NatsServer::start() else { return };
    run(async {
        let mut first = carrier(&server, "one");
        first.position().await.unwrap();
        let mut second = carrier(&server, "two");
        let client = second.connection.client().await.unwrap();
        second.ownership.pretend(&client).await;
        second.ownership.announce(&client).await.unwrap();
        let of_first = first.connection.client().await.unwrap();
        let hears = async {
            while first.ownership.is_held(&of_first) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), hears).await.unwrap();
        let refused = first.append(0, &changes(1..=1)).await.unwrap_err();
        assert!(matches!(&refused, CarrierError::Taken(other) if other.starts_with("two, process")), "{refused}");
        let refused = first.position().await.unwrap_err();
        assert!(matches!(&refused, CarrierError::Taken(other) if other.starts_with("two, process")), "{refused}");
        second.append(0, &changes(1..=1)).await.unwrap();
    });
}

#[test]
fn a_message_that_is_too_large_is_refused_and_those_before_it_are_there() {
    let Some(server) = NatsServer::with("max_payload: 4096\n") else { return };
    run(async {
        let mut carrier = carrier(&server, "one");
        carrier.position().await.unwrap();
        let mut messages = changes(1..=2);
        messages[1].body = "x".repeat(4096);
        let error = carrier.append(0, &messages).await.unwrap_err().to_string();
        assert!(
            error.starts_with("a message about tasks.2 has 4") && error.ends_with("the broker takes 4096"),
            "{error}"
        );
        assert_eq!(carrier.position().await.unwrap().last, 1);

        // The size is exactly that which the server counts.
        let empty = append_size(&change("tasks", "2", 2)) - change("tasks", "2", 2).body.len();
        messages[1].body = "x".repeat(4096 - empty);
        messages.remove(0);
        carrier.append(1, &messages).await.unwrap();
        messages[0].body.push('x');
        let error = carrier.append(2, &messages).await.unwrap_err().to_string();
        assert!(error.contains("has 4097 bytes"), "{error}");
    });
}

/// The size of a message as the carrier counts it.
fn append_size(message: &Message) -> usize {
    let place = super::Place::new(Output::Changes, &broker(&["nats://host"]));
    super::append::size(&place, 1, message)
}

#[test]
fn a_stream_for_other_subjects_or_for_less_is_named() {
    let Some(server) = NatsServer::start() else { return };
    run(async {
        let client = server.client().await;
        for (name, settings, expected) in [
            (
                "duality",
                json!({ "subjects": ["a.*", "b.*"] }),
                "the stream duality is for a.*, b.*; expected duality.*.*",
            ),
            (
                "duality",
                json!({ "subjects": ["duality.>"] }),
                "for duality.publisher.duality.owner, too; expected duality.*.* only",
            ),
            (
                "duality",
                json!({ "subjects": ["duality.*.*"], "retention": "workqueue" }),
                "the retention workqueue; expected limits",
            ),
            ("duality", json!({ "subjects": ["duality.*.*"], "no_ack": true }), "has no_ack"),
            ("other", json!({ "subjects": ["duality.tasks.>"] }), "the stream other has duality.*.* or a part of it"),
        ] {
            let mut config =
                json!({ "name": name, "retention": "limits", "storage": "file", "discard": "old", "num_replicas": 1 });
            config.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
            let created =
                client.request(format!("$JS.API.STREAM.CREATE.{name}"), config.to_string().into()).await.unwrap();
            assert!(!String::from_utf8_lossy(&created.payload).contains("\"error\""), "{created:?}");
            let error = carrier(&server, "one").position().await.unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            client.request(format!("$JS.API.STREAM.DELETE.{name}"), "".into()).await.unwrap();
        }
        carrier(&server, "one").position().await.unwrap();
        let error = {
            let mut broker = broker(&[&server.url()]);
            broker.stream = "second".to_owned();
            NatsCarrier::new(broker, Output::Changes, &owner("one")).position().await.unwrap_err().to_string()
        };
        assert!(
            error.contains("the stream duality has duality.*.* or a part of it, which the stream second needs"),
            "{error}"
        );
    });
}

#[test]
fn a_server_that_is_killed_in_between_gives_errors_and_then_goes_on() {
    let Some(mut server) = NatsServer::start() else { return };
    run(async {
        let mut carrier = carrier(&server, "one");
        carrier.position().await.unwrap();
        carrier.append(0, &changes(1..=3)).await.unwrap();
        server.kill();
        let error = carrier.append(3, &changes(4..=4)).await.unwrap_err().to_string();
        assert!(error.contains("no connection to nats://127.0.0.1:"), "{error}");
        let error = carrier.position().await.unwrap_err().to_string();
        assert!(error.contains("no connection to nats://127.0.0.1:"), "{error}");
        server.resume();
        // What was on its way may arrive now, and is what was to be appended.
        let Position { last, message, .. } = position(&mut carrier).await;
        assert!(last == 3 || last == 4, "{last}");
        assert_eq!(message.as_ref(), changes(1..=4).get(usize::try_from(last).unwrap() - 1));
        carrier.append(last, &changes(5..=6)).await.unwrap();
        assert_eq!(carrier.position().await.unwrap().last, last + 2);
    });
}

#[test]
fn a_wrong_password_is_an_error_without_the_password_and_the_right_one_is_taken() {
    let Some(server) = NatsServer::with("authorization { user: shop, password: \"s3cr:et@\" }\n") else { return };
    run(async {
        let url = |login: &str| server.url().replace("nats://", &format!("nats://{login}@"));
        for login in ["shop:wr0ng", "wr0ng"] {
            let mut carrier = NatsCarrier::new(broker(&[&url(login)]), Output::Changes, &owner("one"));
            let error = carrier.position().await.unwrap_err().to_string();
            assert!(error.contains("authorization violation") && !error.contains("wr0ng"), "{error}");
        }
        // The first of these servers is not there.
        let urls = ["nats://127.0.0.1:1", &url("shop:s3cr%3Aet%40")];
        let mut carrier = NatsCarrier::new(broker(&urls), Output::Changes, &owner("one"));
        carrier.position().await.unwrap();
        carrier.append(0, &changes(1..=1)).await.unwrap();
    });
}

#[test]
fn a_server_without_jetstream_says_so() {
    let Some(server) = NatsServer::without_jetstream() else { return };
    run(async {
        let error = carrier(&server, "one").position().await.unwrap_err().to_string();
        assert!(error.starts_with("JetStream does not answer: "), "{error}");
    });
}
