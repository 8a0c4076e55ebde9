//! The connection to NATS.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::context::{ContextBuilder, RequestError, RequestErrorKind};
use async_nats::jetstream::response::Response;
use async_nats::{Client, ConnectOptions, Event, ServerAddr, rustls};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{OnceCell, watch};

use super::unavailable;
use crate::publish::address::{Address, Login, Transport};
use crate::publish::carrier::{CarrierError, Output};

/// How long a server may take to answer.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a call waits for a connection.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(4);

/// How often the server is asked whether it is still there. After two questions without an answer, it is not.
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// The pause before the second attempt to connect, and the longest one; it doubles in between.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// Where and how to publish.
#[derive(Debug, Clone)]
pub(crate) struct Broker {
    /// The servers of one NATS system; any of them will do.
    pub(crate) addresses: Vec<Address>,
    /// A file with a JWT and a seed, as `nsc` writes it.
    pub(crate) credentials: Option<PathBuf>,
    /// A PEM file with the certificates that sign those of the servers. Without it, the machine's own are used.
    pub(crate) authorities: Option<PathBuf>,
    /// The name of the stream of change events.
    pub(crate) stream: String,
    /// What all subjects begin with.
    pub(crate) prefix: String,
    /// The most bytes that a new stream of change events may take; no limit if it is 0.
    pub(crate) size: u64,
}

/// The connection of one output. It is made when it is first needed, and made again whenever it is lost. Each output has its
/// own, whose tasks run on the thread of the output.
pub(super) struct Connection {
    broker: Broker,
    output: Output,
    client: OnceCell<Client>,
    link: watch::Sender<Link>,
}

/// Whether there is a connection.
enum Link {
    Up,
    /// Why the last attempt has failed.
    Down(String),
}

impl Connection {
    /// Connects to nothing yet.
    pub(super) fn new(broker: Broker, output: Output) -> Self {
        let (link, _) = watch::channel(Link::Down("it does not answer".to_owned()));
        Self { broker, output, client: OnceCell::new(), link }
    }

    /// The client, if it is connected, or is soon.
    pub(super) async fn client(&self) -> Result<Client, CarrierError> {
        let client = self.client.get_or_try_init(|| self.start()).await?;
        let mut link = self.link.subscribe();
        let up = tokio::time::timeout(CONNECTION_TIMEOUT, link.wait_for(|link| matches!(link, Link::Up))).await;
        if up.is_err() {
            return Err(unavailable(self.to_string()));
        }
        Ok(client.clone())
    }

    /// Waits for the result, as long as the connection is there.
    pub(super) async fn unless_lost<T>(
        &self,
        work: impl Future<Output = Result<T, CarrierError>>,
    ) -> Result<T, CarrierError> {
        let mut link = self.link.subscribe();
        tokio::select! {
            biased;
            result = work => result,
            _ = link.wait_for(|link| matches!(link, Link::Down(_))) => Err(unavailable(self.to_string())),
        }
    }

    /// The API of JetStream.
    pub(super) async fn jetstream(&self) -> Result<Context, CarrierError> {
        Ok(ContextBuilder::new().timeout(REQUEST_TIMEOUT).build(self.client().await?))
    }

    /// Asks JetStream.
    pub(super) async fn request<T: DeserializeOwned>(
        &self,
        subject: String,
        payload: &impl Serialize,
    ) -> Result<Response<T>, CarrierError> {
        let jetstream = self.jetstream().await?;
        let answer = async { jetstream.request(subject, payload).await.map_err(|error| explained(&error)) };
        self.unless_lost(answer).await
    }

    /// Makes the client, which connects in the background.
    async fn start(&self) -> Result<Client, CarrierError> {
        // A program that contains this crate may have another one, too; then rustls would not know which.
        drop(rustls::crypto::ring::default_provider().install_default());
        let Broker { addresses, credentials, authorities, .. } = &self.broker;
        let link = self.link.clone();
        let (output, names) = (self.output.name(), Names(addresses).to_string());
        let mut options = ConnectOptions::new()
            .name(format!("duality {output}"))
            // What a publisher asks of others is not for itself.
            .no_echo()
            .retry_on_initial_connect()
            .ping_interval(PING_INTERVAL)
            .connection_timeout(CONNECTION_TIMEOUT)
            .require_tls(addresses.iter().all(|address| address.transport == Transport::Tls))
            .reconnect_delay_callback(pause)
            .event_callback(move |event| {
                note(&link, &event, output, &names);
                std::future::ready(())
            });
        match addresses.iter().find_map(|address| address.login.clone()) {
            Some(Login::Password { user, password }) => options = options.user_and_password(user, password),
            Some(Login::Token(token)) => options = options.token(token),
            None => {}
        }
        if let Some(file) = authorities {
            options = options.add_root_certificates(file.clone());
        }
        if let Some(file) = credentials {
            options = options.credentials_file(file).await.map_err(unavailable)?;
        }
        let servers: Result<Vec<ServerAddr>, _> = addresses.iter().map(|address| address.to_string().parse()).collect();
        options.connect(servers.map_err(unavailable)?).await.map_err(unavailable)
    }
}

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no connection to {}", Names(&self.broker.addresses))?;
        match &*self.link.borrow() {
            Link::Up => Ok(()),
            Link::Down(why) => write!(f, ": {why}"),
        }
    }
}

/// Addresses, without what is secret.
struct Names<'a>(&'a [Address]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&names.join(" or "))
    }
}

/// How often there has been a connection: a later one may miss what happened before it.
pub(super) fn generation(client: &Client) -> u64 {
    client.statistics().connects.load(Ordering::Relaxed)
}

/// Notes what happens to the connection.
fn note(link: &watch::Sender<Link>, event: &Event, output: &str, names: &str) {
    match event {
        Event::Connected => {
            log::info!("the publisher of {output} is connected to NATS at {names}");
            link.send_replace(Link::Up);
        }
        Event::Disconnected | Event::Closed => {
            log::warn!("the publisher of {output} has lost the connection to NATS at {names}");
            link.send_replace(Link::Down("it was lost".to_owned()));
        }
        Event::ClientError(error) => {
            let why = error.to_string();
            let why = why.strip_prefix("nats: ").unwrap_or(&why).to_owned();
            link.send_if_modified(|link| match link {
                Link::Down(before) => {
                    *before = why;
                    true
                }
                Link::Up => false,
            });
        }
        Event::ServerError(error) => log::warn!("the publisher of {output} hears from NATS: {error}"),
        Event::LameDuckMode | Event::Draining | Event::SlowConsumer(_) => {
            log::info!("the publisher of {output} hears from NATS: {event}");
        }
    }
}

/// How long to wait before an attempt to connect: half of it to all of it at random, so that many clients of a server that
/// is back do not come at once.
fn pause(attempts: usize) -> Duration {
    let Some(doublings) = attempts.checked_sub(2) else { return Duration::ZERO };
    let doublings = u32::try_from(doublings).unwrap_or(u32::MAX).min(16);
    let pause = FIRST_PAUSE.saturating_mul(1 << doublings).min(LONGEST_PAUSE);
    let random = getrandom::u32().unwrap_or_default();
    pause / 2 + pause.mul_f64(f64::from(random) / f64::from(u32::MAX) / 2.0)
}

/// An error of a request, with what it means.
fn explained(error: &RequestError) -> CarrierError {
    match error.kind() {
        RequestErrorKind::NoResponders => {
            unavailable("JetStream does not answer: the server has it switched off, or this user may not use it")
        }
        RequestErrorKind::TimedOut => unavailable("JetStream does not answer in time"),
        _ => unavailable(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pauses_between_attempts_double_up_to_a_limit() {
        assert_eq!((pause(0), pause(1)), (Duration::ZERO, Duration::ZERO));
        for (attempts, longest) in [(2, 50), (3, 100), (4, 200), (8, 3000), (100, 3000), (usize::MAX, 3000)] {
            let longest = Duration::from_millis(longest);
            assert!((longest / 2..=longest).contains(&pause(attempts)), "{attempts}: {:?}", pause(attempts));
        }
    }
}
