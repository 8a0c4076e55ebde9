//! Commands that carry a mark of their own, so that the log of events tells afterwards whether they were executed.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde_json::{Value, json};

use super::Client;

/// What became of a command, as far as its client knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    NotDone,
    Unknown,
}

/// A command that was sent, and its outcome.
#[derive(Debug)]
pub(crate) struct Marked {
    pub(crate) mark: String,
    pub(crate) outcome: Outcome,
    /// What a POST has created.
    pub(crate) created: Option<String>,
    /// That of the answer.
    pub(crate) revision: Option<i64>,
}

impl Marked {
    /// Posts a person that nobody else posts.
    pub(crate) fn post(client: &mut Client, mark: &str, headers: &[(&str, &str)]) -> Self {
        Self::send(client, ("POST", "/persons"), mark, headers, &json!({ "name": "Ann", "city": mark }))
    }

    /// Gives a person a name that nobody else has.
    pub(crate) fn patch(client: &mut Client, path: &str, mark: &str) -> Self {
        Self::send(client, ("PATCH", path), mark, &[], &json!({ "name": mark }))
    }

    fn send(
        client: &mut Client,
        (method, path): (&str, &str),
        mark: &str,
        headers: &[(&str, &str)],
        body: &Value,
    ) -> Self {
        let headers = [&[("Content-Type", "application/json")], headers].concat();
        let sent = client.try_send(method, path, &headers, Some(body.to_string().as_bytes()));
        let response = sent.and_then(|()| client.try_response(method));
        let mark = mark.to_owned();
        let Ok(response) = response else {
            return Self { mark, outcome: Outcome::Unknown, created: None, revision: None };
        };
        let outcome = match response.status {
            200 | 201 => Outcome::Done,
            503 => Outcome::NotDone,
            // Only this error is allowed.
            500 if response.text().contains("it is unknown whether") => Outcome::Unknown,
            status => panic!("{status}: {}", response.text()),
        };
        let revision = (outcome == Outcome::Done).then(|| response.revision());
        Self { mark, outcome, created: response.header("Location").map(str::to_owned), revision }
    }
}

/// The persons of each change event, from pages. Revisions must be dense.
#[track_caller]
fn log(address: SocketAddr) -> Vec<String> {
    let mut client = Client::connect(address);
    let (mut events, mut path) = (Vec::<Value>::new(), "/events?limit=1000".to_owned());
    loop {
        let page = client.request("GET", &path, &[("Accept", "application/json")], None).json();
        let page_events = page["events"].as_array().unwrap();
        let more: Vec<_> = page_events.iter().filter(|event| event["revision"].is_i64()).cloned().collect();
        if more.is_empty() {
            let is_dense = events.iter().zip(1..).all(|(event, revision)| event["revision"] == revision);
            assert!(is_dense, "revisions are dense");
            return events.iter().map(|event| event["patch"]["persons"].to_string()).collect();
        }
        events.extend(more);
        path = format!("/events?limit=1000&lastEventId={}", page["cursor"].as_str().unwrap());
    }
}

/// The record agrees with what every client knows. Returns the number of its revisions.
#[track_caller]
pub(crate) fn assert_agrees(address: SocketAddr, sent: &[Marked]) -> usize {
    let log = log(address);
    let text = log.join("\n");
    for Marked { mark, outcome, revision, .. } in sent {
        let times = text.matches(mark.as_str()).count();
        let agrees = match outcome {
            Outcome::Done => times == 1,
            Outcome::NotDone => times == 0,
            Outcome::Unknown => times <= 1,
        };
        assert!(agrees, "{mark} is {outcome:?}, and {times} times in the log");
        if let Some(revision) = revision.and_then(|revision| usize::try_from(revision - 1).ok()) {
            assert!(log[revision].contains(mark.as_str()), "{mark} was answered with revision {}", revision + 1);
        }
    }
    let created: Vec<_> = sent.iter().filter_map(|sent| sent.created.as_ref()).collect();
    assert_eq!(created.iter().collect::<BTreeSet<_>>().len(), created.len(), "no two POSTs share a key");
    log.len()
}
