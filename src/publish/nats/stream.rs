//! A stream of JetStream: its name, its subjects, and what it has.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::header::HeaderName;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::connection::{Broker, Connection};
use super::unavailable;
use crate::publish::carrier::{CarrierError, Output, Stored};
use crate::publish::message::Message;

/// How long a new stream knows the ids of its messages. What keeps messages from being there twice are the expected
/// sequence numbers, so that it is short.
const DUPLICATE_WINDOW_NANOSECONDS: u64 = 1_000_000_000;

/// A server that is deleting a stream of this name removes its files a moment later, and with them those of a new one (seen
/// with 2.9.10).
const PAUSE_BEFORE_CREATION: Duration = Duration::from_millis(500);

/// The error of a stream whose subjects another one has.
const SUBJECTS_OVERLAP: ErrorCode = ErrorCode(10065);

/// The stream of one output, and its subjects.
pub(super) struct Place {
    /// The name of the stream.
    pub(super) stream: String,
    /// What all subjects of the stream begin with, with the dot at its end.
    pub(super) prefix: String,
    /// The subjects of the stream.
    subjects: String,
    /// Where the service that publishes into the stream answers. No stream has it.
    pub(super) owner_subject: String,
    /// The most bytes that a new stream may take; no limit if it is 0.
    size: u64,
}

/// Where a stream stands.
pub(super) struct Standing {
    /// The number of the oldest message, or of the next one if there is none.
    pub(super) first: u64,
    /// The number of the last message that was appended.
    pub(super) last: u64,
    /// The size of the largest message that it takes, with its headers.
    pub(super) largest: Option<usize>,
}

#[derive(Deserialize)]
struct Description {
    config: Config,
    state: State,
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    subjects: Vec<String>,
    retention: String,
    #[serde(default)]
    no_ack: bool,
    mirror: Option<IgnoredAny>,
    max_msg_size: Option<i64>,
}

#[derive(Deserialize)]
struct State {
    messages: u64,
    first_seq: u64,
    last_seq: u64,
}

#[derive(Deserialize)]
struct Purged {}

impl Place {
    pub(super) fn new(output: Output, broker: &Broker) -> Self {
        let Broker { stream, prefix, size, .. } = broker;
        let (stream, prefix, size) = match output {
            Output::Changes => (stream.clone(), format!("{prefix}."), *size),
            Output::Journal => (format!("{stream}-journal"), format!("{prefix}.journal."), 0),
        };
        let owner_subject = format!("{}.publisher.{stream}.owner", broker.prefix);
        Self { subjects: format!("{prefix}*.*"), stream, prefix, owner_subject, size }
    }

    /// The subject of a message.
    pub(super) fn subject(&self, message: &Message) -> String {
        let mut subject = message.subject();
        subject.insert_str(0, &self.prefix);
        subject
    }

    /// Where the stream stands. It is created if it is missing.
    pub(super) async fn open(&self, connection: &Connection) -> Result<Standing, CarrierError> {
        let stream = &self.stream;
        let described: Response<Description> = connection.request(format!("STREAM.INFO.{stream}"), &()).await?;
        let Description { config, state } = match described {
            Response::Ok(description) => description,
            Response::Err { error } if error.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                self.create(connection).await?
            }
            Response::Err { error } => return Err(unavailable(format!("the stream {stream}: {error}"))),
        };
        self.check(&config).map_err(unavailable)?;
        let first = if state.messages == 0 { state.last_seq + 1 } else { state.first_seq };
        let largest = config.max_msg_size.and_then(|size| usize::try_from(size).ok()).filter(|size| *size > 0);
        Ok(Standing { first, last: state.last_seq, largest })
    }

    async fn create(&self, connection: &Connection) -> Result<Description, CarrierError> {
        let Self { stream, subjects, .. } = self;
        tokio::time::sleep(PAUSE_BEFORE_CREATION).await;
        let request = format!("STREAM.CREATE.{stream}");
        match connection.request(request, &self.new_stream()).await? {
            Response::Ok(created) => {
                log::info!("created the stream {stream} for {subjects} in NATS");
                Ok(created)
            }
            Response::Err { error } if error.error_code() == SUBJECTS_OVERLAP => {
                let holder = connection.jetstream().await?.stream_by_subject(subjects.as_str()).await;
                let holder = holder.map_or_else(|_| "another stream".to_owned(), |name| format!("the stream {name}"));
                Err(unavailable(format!("{holder} has {subjects} or a part of it, which the stream {stream} needs")))
            }
            Response::Err { error } => Err(unavailable(format!("the stream {stream} cannot be created: {error}"))),
        }
    }

    /// The settings of a new stream.
    fn new_stream(&self) -> Value {
        json!({
            "name": self.stream,
            "subjects": [self.subjects],
            "retention": "limits",
            "discard": "old",
            "max_bytes": i64::try_from(self.size).ok().filter(|size| *size > 0).unwrap_or(-1),
            "max_msgs": -1,
            "max_msgs_per_subject": -1,
            "max_msg_size": -1,
            "max_age": 0,
            "max_consumers": -1,
            "storage": "file",
            "num_replicas": 1,
            "duplicate_window": DUPLICATE_WINDOW_NANOSECONDS,
            "allow_direct": true,
        })
    }

    /// Whether the stream, which somebody else may have created, takes and keeps our messages.
    fn check(&self, config: &Config) -> Result<(), String> {
        let Self { stream, subjects, owner_subject, .. } = self;
        let has = |subject: &str| config.subjects.iter().any(|pattern| captures(pattern, subject));
        if config.mirror.is_some() {
            return Err(format!("the stream {stream} is a mirror; expected one for {subjects}"));
        }
        if !has(subjects) {
            let found = config.subjects.join(", ");
            return Err(format!("the stream {stream} is for {found}; expected {subjects}"));
        }
        if has(owner_subject) {
            return Err(format!("the stream {stream} is for {owner_subject}, too; expected {subjects} only"));
        }
        if config.retention != "limits" {
            return Err(format!("the stream {stream} has the retention {}; expected limits", config.retention));
        }
        if config.no_ack {
            return Err(format!("the stream {stream} has no_ack; expected acknowledgements"));
        }
        Ok(())
    }

    /// The message with this number; `None` if it is not there, or not one of ours.
    pub(super) async fn message(&self, connection: &Connection, number: u64) -> Result<Option<Message>, CarrierError> {
        Ok(self.stored(connection, Wanted::Number(number)).await?.and_then(|stored| self.read(stored)))
    }

    /// The last message about this collection.
    pub(super) async fn last_of(
        &self,
        connection: &Connection,
        collection: &str,
    ) -> Result<Option<Stored>, CarrierError> {
        let subject = format!("{}{collection}.*", self.prefix);
        let stored = self.stored(connection, Wanted::LastOf(subject)).await?;
        Ok(stored.and_then(|stored| Some(Stored { number: stored.sequence, message: self.read(stored)? })))
    }

    /// The id of the message with this number, by which the server knows duplicates.
    pub(super) async fn id_of(&self, connection: &Connection, number: u64) -> Result<Option<String>, CarrierError> {
        let stored = self.stored(connection, Wanted::Number(number)).await?;
        Ok(stored.and_then(|stored| text(&stored.headers, async_nats::header::NATS_MESSAGE_ID.as_ref())))
    }

    /// Removes the messages before this number.
    pub(super) async fn purge(&self, connection: &Connection, before: u64) -> Result<(), CarrierError> {
        // To a server, a number that is not more than 1 means all of them.
        if before <= 1 {
            return Ok(());
        }
        let request = format!("STREAM.PURGE.{}", self.stream);
        match connection.request::<Purged>(request, &json!({ "seq": before })).await? {
            Response::Ok(_) => Ok(()),
            Response::Err { error } => Err(unavailable(format!("the stream {}: {error}", self.stream))),
        }
    }

    async fn stored(&self, connection: &Connection, wanted: Wanted) -> Result<Option<StreamMessage>, CarrierError> {
        let stream = connection.jetstream().await?.get_stream_no_info(&self.stream).await.map_err(unavailable)?;
        let found = async {
            let found = match wanted {
                Wanted::Number(number) => stream.get_raw_message(number).await,
                Wanted::LastOf(subject) => stream.get_last_raw_message_by_subject(&subject).await,
            };
            match found {
                Ok(message) => Ok(Some(message)),
                Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
                Err(error) => Err(unavailable(format!("the stream {}: {error}", self.stream))),
            }
        };
        connection.unless_lost(found).await
    }

    fn read(&self, stored: StreamMessage) -> Option<Message> {
        let subject = stored.subject.as_str().strip_prefix(&self.prefix)?;
        let body = String::from_utf8(stored.payload.into()).ok()?;
        Message::read(subject, |name| text(&stored.headers, name), body)
    }
}

/// Which message.
enum Wanted {
    Number(u64),
    LastOf(String),
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    let name: HeaderName = name.parse().ok()?;
    headers.get(name).map(|value| value.as_str().to_owned())
}

/// Whether a stream with this subject has all messages of the other one, which may have wildcards, too.
fn captures(pattern: &str, subject: &str) -> bool {
    let mut tokens = subject.split('.');
    for expected in pattern.split('.') {
        match (expected, tokens.next()) {
            (">", Some(_)) => return true,
            ("*", Some(token)) if token != ">" => {}
            (expected, Some(token)) if expected == token => {}
            _ => return false,
        }
    }
    tokens.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_with_wildcards_has_those_that_are_more_special() {
        for (pattern, subject, expected) in [
            ("duality.*.*", "duality.*.*", true),
            ("duality.>", "duality.*.*", true),
            (">", "duality.*.*", true),
            ("*.*.*", "duality.*.*", true),
            ("duality.persons.*", "duality.*.*", false),
            ("duality.*", "duality.*.*", false),
            ("duality.*.*.*", "duality.*.*", false),
            ("duality.*.*", "duality.publisher.duality.owner", false),
            ("duality.>", "duality.publisher.duality.owner", true),
            ("duality.*.*.>", "duality.*.*", false),
            ("duality.*.*", "duality.*.>", false),
        ] {
            assert_eq!(captures(pattern, subject), expected, "{pattern} {subject}");
        }
    }
}
