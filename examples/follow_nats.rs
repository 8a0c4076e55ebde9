//! Prints the document whenever its copy is exact. `docs/messaging.md` explains it. Run it with:
//!
//!     cargo run --example follow_nats -- nats://localhost:4222 http://localhost:3000/aggregates

use std::error::Error;
use std::future::poll_fn;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::pin::Pin;
use std::time::Duration;

use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::{Ordered, OrderedConfig};
use async_nats::jetstream::{self, Message, stream::Stream};
use async_nats::{Client, ConnectOptions};
use futures_core::Stream as _;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Loads the document, and follows it. Prints each exact state; ends, or fails, when it has to be loaded again.
async fn follow(connection: Client, url: &str) -> Result<()> {
    let stream = jetstream::new(connection).get_stream("duality").await?;
    let (filter_subject, deliver_policy) = ("duality.*.*".to_owned(), DeliverPolicy::New);
    let config = OrderedConfig { filter_subject, deliver_policy, ..OrderedConfig::default() };
    let consumer = stream.create_consumer(config).await?;
    let (name, mut last) = (consumer.cached_info().name.clone(), consumer.cached_info().delivered.stream_sequence);
    let mut messages = consumer.messages().await?;
    let (mut document, epoch, mut start) = load(url)?;
    print(&document)?;
    loop {
        let message = next(&mut messages, &stream, &name).await?;
        let (info, header) = (message.info()?, |name| header(&message, name));
        let mut id = header("Duality-Id").split('.');
        let (life, revision, partial) = (id.next(), id.next().unwrap_or_default().parse::<i64>()?, id.next());
        if header("Catch-Up") == info.stream_sequence.to_string() {
            (document, start, last) = (json!({}), -1, info.stream_sequence - 1);
        }
        last += 1;
        if info.consumer != name || info.stream_sequence != last || (revision <= start && life != Some(&epoch)) {
            return Ok(());
        }
        if revision > start {
            merge(&mut document, &message)?;
        }
        if partial.is_none() && header("Part").split_once('/').is_some_and(|(part, parts)| part == parts) {
            print(&document)?;
        }
    }
}

/// The next message. In the silence before it, the consumer has to be there still.
async fn next(messages: &mut Ordered, stream: &Stream, consumer: &str) -> Result<Message> {
    loop {
        let message = poll_fn(|context| Pin::new(&mut *messages).poll_next(context));
        match timeout(Duration::from_secs(5), message).await {
            Ok(message) => return Ok(message.ok_or("the connection is closed")??),
            Err(_) => drop(stream.consumer_info(consumer).await?),
        }
    }
}

fn header<'a>(message: &'a Message, name: &str) -> &'a str {
    message.headers.as_ref().and_then(|headers| headers.get(name)).map_or("", |value| value.as_str())
}

/// Applies the merge patch of a message to the document.
fn merge(document: &mut Value, message: &Message) -> Result<()> {
    let [_, collection, token] = message.subject.split('.').collect::<Vec<_>>()[..] else {
        return Err("a subject has three parts".into());
    };
    let (patch, key) = (serde_json::from_slice(&message.payload)?, percent_decode_str(token).decode_utf8()?);
    let patch: Value = if token == "_" { patch } else { json!({ key: patch }) };
    json_patch::merge(document, &json!({ collection: patch }));
    Ok(())
}

/// The document, its epoch, and its revision.
fn load(url: &str) -> Result<(Value, String, i64)> {
    let place = url.strip_prefix("http://").and_then(|rest| rest.split_once('/'));
    let (host, path) = place.ok_or("expected http://host:port/aggregates")?;
    let (mut connection, mut answer) = (TcpStream::connect(host)?, String::new());
    write!(connection, "GET /{path} HTTP/1.0\r\nHost: {host}\r\n\r\n")?;
    connection.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("the answer has no end")?;
    let head = head.to_ascii_lowercase();
    let header = |name| head.lines().find_map(|line| line.strip_prefix(name)).ok_or("the document was not answered");
    let (epoch, revision) = (header("x-epoch: ")?.to_owned(), header("x-revision: ")?.parse()?);
    Ok((serde_json::from_str(body)?, epoch, revision))
}

fn print(document: &Value) -> Result<()> {
    Ok(writeln!(std::io::stdout(), "{document}")?)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [broker, url] = &arguments[..] else {
        return Err("usage: follow_nats nats://HOST:PORT http://HOST:PORT/aggregates".into());
    };
    loop {
        let broken = match ConnectOptions::new().max_reconnects(1).connect(broker).await {
            Ok(connection) => follow(connection, url).await,
            Err(error) => Err(error.into()),
        };
        if let Err(error) = broken {
            writeln!(std::io::stderr(), "{error}")?;
        }
        sleep(Duration::from_secs(1)).await;
    }
}
