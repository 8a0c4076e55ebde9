//! What a server still has of an aggregate that was erased: in its streams, and in its files.

use serde_json::json;

use super::{NatsServer, broker, carrier, change, owner, run};
use crate::domain::key::Key;
use crate::publish::carrier::{Carrier, Keep, Output, Past, Position, Removal};
use crate::publish::message::Message;
use crate::publish::nats::NatsCarrier;

const MARKER: &str = "Zanzibar-7319";

/// A change with the marker.
fn marked(collection: &str, key: &str, revision: i64) -> Message {
    Message { body: json!({ "note": format!("{MARKER} {revision}") }).to_string(), ..change(collection, key, revision) }
}

/// The last change of an aggregate.
fn null(collection: &str, key: &str, revision: i64) -> Message {
    Message { body: "null".to_owned(), ..change(collection, key, revision) }
}

fn past(collection: &str, key: &str, keep: Keep) -> Past {
    Past { collection: collection.to_owned(), key: Key::parse(key).unwrap(), keep }
}

/// Removes everything. Returns how often it was asked.
async fn erase(carrier: &mut NatsCarrier, past: &Past) -> usize {
    let mut times = 1;
    while carrier.erase(past).await.unwrap() == Removal::More {
        times += 1;
    }
    times
}

/// The numbers of the messages that are there.
async fn numbers(carrier: &NatsCarrier, last: u64) -> Vec<u64> {
    let mut numbers = Vec::new();
    for number in 1..=last {
        if carrier.place.message(&carrier.connection, number).await.unwrap().is_some() {
            numbers.push(number);
        }
    }
    numbers
}

#[test]
fn all_but_the_last_message_about_an_erased_aggregate_go_and_its_server_overwrites_them() {
    let Some(mut server) = NatsServer::start() else { return };
    run(async {
        let mut carrier = carrier(&server, "one");
        carrier.position().await.unwrap();
        // One whose key has a meaning in subjects, and others whose subjects are alike.
        let key = "St. * >";
        let mut messages = vec![change("tasks", "St", 1), change("tasks", "%2A", 2), marked("tasks", key, 3)];
        messages.extend((4..=240).map(|revision| marked("tasks", key, revision)));
        messages.extend([change("notes", key, 241), null("tasks", key, 242), change("tasks", "1", 243)]);
        carrier.append(0, &messages).await.unwrap();
        assert!(!server.files_with(MARKER).is_empty());

        let times = erase(&mut carrier, &past("tasks", key, Keep::Last)).await;
        assert!(times >= 3, "{times}");
        assert_eq!(numbers(&carrier, 243).await, [1, 2, 241, 242, 243]);
        let position = carrier.position().await.unwrap();
        assert_eq!(position, Position { first: 1, last: 243, message: messages.pop() });
        assert_eq!(server.files_with(MARKER), Vec::<std::path::PathBuf>::new());

        // Nothing is left to be removed, and there never was anything about others.
        for past in [past("tasks", key, Keep::Last), past("tasks", "none", Keep::Last), past("a", "b", Keep::From(200))]
        {
            assert_eq!(erase(&mut carrier, &past).await, 1);
        }
        assert_eq!(numbers(&carrier, 243).await, [1, 2, 241, 242, 243]);
        carrier.append(243, &[change("tasks", "1", 244)]).await.unwrap();
    });
    server.kill();
    assert_eq!(server.files_with(MARKER), Vec::<std::path::PathBuf>::new());
    server.resume();
    run(async {
        let mut carrier = carrier(&server, "one");
        assert_eq!(super::position(&mut carrier).await.last, 244);
        assert_eq!(numbers(&carrier, 244).await, [1, 2, 241, 242, 243, 244]);
    });
}

#[test]
fn before_what_a_catch_up_replaces_is_removed_everything_about_an_erased_aggregate_goes() {
    let Some(server) = NatsServer::start() else { return };
    run(async {
        let mut carrier = carrier(&server, "one");
        carrier.position().await.unwrap();
        let messages = [
            marked("tasks", "1", 1),
            change("tasks", "2", 2),
            marked("tasks", "1", 3),
            Message { key: None, ..change("tasks", "1", 4) },
            change("tasks", "2", 5),
            change("tasks", "1", 6),
        ];
        carrier.append(0, &messages).await.unwrap();
        erase(&mut carrier, &past("tasks", "1", Keep::From(4))).await;
        assert_eq!(numbers(&carrier, 6).await, [2, 4, 5, 6]);
        carrier.reset(4).await.unwrap();
        assert_eq!(numbers(&carrier, 6).await, [4, 5, 6]);
        assert_eq!(server.files_with(MARKER), Vec::<std::path::PathBuf>::new());
    });
}

#[test]
fn each_output_loses_messages_of_its_own_stream_only() {
    let Some(server) = NatsServer::start() else { return };
    run(async {
        let mut changes = carrier(&server, "one");
        let mut journal = NatsCarrier::new(broker(&[&server.url()]), Output::Journal, &owner("one"));
        for carrier in [&mut changes, &mut journal] {
            carrier.position().await.unwrap();
            carrier.append(0, &[marked("tasks", "1", 1), null("tasks", "1", 2)]).await.unwrap();
        }
        erase(&mut journal, &past("tasks", "1", Keep::Last)).await;
        assert_eq!((numbers(&changes, 2).await, numbers(&journal, 2).await), (vec![1, 2], vec![2]));
    });
}

#[test]
fn a_stream_that_allows_no_deletion_says_so() {
    let Some(server) = NatsServer::start() else { return };
    run(async {
        let client = server.client().await;
        let config = json!({ "name": "duality", "subjects": ["duality.*.*"], "retention": "limits", "storage": "file",
            "discard": "old", "num_replicas": 1, "deny_delete": true });
        client.request("$JS.API.STREAM.CREATE.duality", config.to_string().into()).await.unwrap();
        let mut carrier = carrier(&server, "one");
        carrier.position().await.unwrap();
        carrier.append(0, &[marked("tasks", "1", 1), null("tasks", "1", 2)]).await.unwrap();
        let error = carrier.erase(&past("tasks", "1", Keep::Last)).await.unwrap_err().to_string();
        assert!(error.starts_with("the stream duality: ") && error.contains("not permitted"), "{error}");
        assert_eq!(numbers(&carrier, 2).await, [1, 2]);
        carrier.append(2, &[change("tasks", "2", 3)]).await.unwrap();
    });
}

#[test]
fn whoever_has_lost_the_stream_removes_nothing() {
    let Some(mut server) = NatsServer::start() else { return };
    run(async {
        let mut carrier = carrier(&server, "one");
        carrier.position().await.unwrap();
        carrier.append(0, &[change("tasks", "1", 1), null("tasks", "1", 2)]).await.unwrap();
        server.kill();
        assert!(carrier.erase(&past("tasks", "1", Keep::Last)).await.is_err());
        server.resume();
        // It may have been another's meanwhile.
        while carrier.connection.client().await.is_err() {}
        assert!(carrier.erase(&past("tasks", "1", Keep::Last)).await.is_err());
        super::position(&mut carrier).await;
        assert_eq!(erase(&mut carrier, &past("tasks", "1", Keep::Last)).await, 1);
        assert_eq!(numbers(&carrier, 2).await, [2]);
    });
}
