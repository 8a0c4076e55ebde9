//! A program that has a copy of some collections: it loads them once, follows the broker, and starts again where it sees that
//! it cannot go on.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use async_nats::Event;
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_nats::jetstream::stream::{Info, Stream};
use async_nats::jetstream::{self, Context};
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::super::Client;
use super::CHANGES;
use super::message::{Published, Stored};
use super::server::next;

/// How long nothing may come until it looks whether the stream is still the one that it reads.
const QUIET: Duration = Duration::from_millis(50);

/// A copy, and how far it is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Copy {
    /// The collections by their names.
    pub(crate) document: Value,
    /// The history that it is a copy of.
    epoch: String,
    /// The revision at which the state was loaded.
    start: i64,
    /// The last message that was applied, by collection; without one, everything up to the start.
    at: BTreeMap<String, At>,
    /// The last message that was read. `None` if the state has to be loaded.
    last: Option<Place>,
    /// How often it loaded the state.
    pub(crate) loads: usize,
}

/// A revision and a part of it.
type At = (i64, u32);

/// Where a message is, or the end at which the consumer began.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    /// When the stream was created.
    created: String,
    sequence: u64,
    /// `Duality-Id` and `Part` of the message; `None` if the consumer has read none yet.
    message: Option<(String, String)>,
}

/// A message before this one is missing, or it is of another history.
#[derive(Debug)]
struct Missing;

/// A running consumer.
pub(crate) struct Consumer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    /// `/aggregates`, or `/persons`.
    path: String,
    /// Moves when the service starts elsewhere.
    service: Mutex<SocketAddr>,
    broker: SocketAddr,
    copy: Mutex<Copy>,
    is_over: AtomicBool,
}

impl Consumer {
    /// Starts one that has nothing yet, or the copy of an earlier one.
    pub(crate) fn start(path: &str, service: SocketAddr, broker: SocketAddr, copy: Copy) -> Self {
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            service: Mutex::new(service),
            broker,
            copy: Mutex::new(copy),
            is_over: AtomicBool::new(false),
        });
        let running = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(running.run());
        });
        Self { shared, thread: Some(thread) }
    }

    /// The service has moved to this address.
    pub(crate) fn service_is_at(&self, address: SocketAddr) {
        *self.shared.service.lock().unwrap_or_else(PoisonError::into_inner) = address;
    }

    pub(crate) fn path(&self) -> &str {
        &self.shared.path
    }

    /// What it would answer at its path.
    pub(crate) fn state(&self) -> Value {
        let copy = self.copy();
        self.shared.collection().map_or_else(|| copy.document.clone(), |name| copy.document[name].clone())
    }

    pub(crate) fn copy(&self) -> Copy {
        self.shared.copy.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn end(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "a consumer panicked");
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    /// The only collection that it follows.
    fn collection(&self) -> Option<&str> {
        Some(&self.path[1..]).filter(|name| *name != "aggregates")
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    async fn run(&self) {
        while !self.is_over() {
            // Whatever went wrong, it connects again.
            let _ = self.follow().await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Follows until the connection is lost, or until it sees that it has to load the state.
    async fn follow(&self) -> Result<(), async_nats::Error> {
        let lost = Arc::new(Notify::new());
        let noticed = Arc::clone(&lost);
        let options = async_nats::ConnectOptions::new().event_callback(move |event| {
            if matches!(event, Event::Disconnected) {
                noticed.notify_one();
            }
            std::future::ready(())
        });
        let context = jetstream::new(options.connect(self.broker.to_string()).await?);
        tokio::select! {
            outcome = self.read(context) => outcome,
            () = lost.notified() => Ok(()),
        }
    }

    async fn read(&self, context: Context) -> Result<(), async_nats::Error> {
        let stream = context.get_stream(CHANGES).await?;
        let mut copy = self.copy.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if !copy.is_of(&stream).await? {
            // Whatever comes after the state was read is read from here on.
            let place = Place::end(&stream.get_info().await?);
            let Some(loaded) = self.load(place, copy.loads) else { return Ok(()) };
            copy = loaded;
            self.keep(&copy);
        }
        let from = copy.last.as_ref().map_or(0, |place| place.sequence);
        let config = pull::OrderedConfig {
            filter_subject: format!("duality.{}.*", self.collection().unwrap_or("*")),
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: from + 1 },
            ..pull::OrderedConfig::default()
        };
        let mut messages = stream.create_consumer(config).await?.messages().await?;
        while !self.is_over() {
            let is_good = match tokio::time::timeout(QUIET, next(&mut messages)).await {
                Ok(Some(message)) => copy.take(&Published::read(&Stored::delivered(&message?))?).is_ok(),
                Ok(None) => return Ok(()),
                Err(_) => copy.is_of(&stream).await?,
            };
            if !is_good {
                copy.last = None;
            }
            self.keep(&copy);
            if !is_good {
                return Ok(());
            }
        }
        Ok(())
    }

    fn keep(&self, copy: &Copy) {
        copy.clone_into(&mut self.copy.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The state of now. `None` if the service does not answer.
    fn load(&self, place: Place, loads: usize) -> Option<Copy> {
        let service = *self.service.lock().unwrap_or_else(PoisonError::into_inner);
        let response = Client::try_get(service, &self.path)?;
        let (revision, epoch) = (response.revision(), response.header("X-Epoch")?.to_owned());
        let document = match self.collection() {
            Some(name) => json!({ name: response.json() }),
            None => response.json(),
        };
        let last = Some(place);
        Some(Copy { document, epoch, start: revision, at: BTreeMap::new(), last, loads: loads + 1 })
    }
}

impl Copy {
    /// Whether the stream is the one that was read: it has the last message still where it was, if it has not removed it.
    async fn is_of(&self, stream: &Stream) -> Result<bool, async_nats::Error> {
        let Some(place) = &self.last else { return Ok(false) };
        let info = stream.get_info().await?;
        if info.created.to_string() != place.created || info.state.last_sequence < place.sequence {
            return Ok(false);
        }
        let Some(known) = &place.message else { return Ok(true) };
        let Ok(message) = stream.get_raw_message(place.sequence).await else { return Ok(true) };
        let header = |name| message.headers.get(name).map(|value| value.as_str().to_owned());
        Ok(header("Duality-Id").zip(header("Part")).as_ref() == Some(known))
    }

    /// Applies a message, or skips it.
    fn take(&mut self, message: &Published) -> Result<(), Missing> {
        // All of the collection comes again: a catch-up begins.
        if message.key.is_none() && message.body.is_null() {
            self.epoch.clone_from(&message.epoch);
            self.at.insert(message.collection.clone(), (0, 0));
        }
        let at = self.at.get(&message.collection).copied().unwrap_or((self.start, u32::MAX));
        if message.epoch != self.epoch || message.previous.is_some_and(|previous| previous > at.0) {
            return Err(Missing);
        }
        let own = (message.number, message.part);
        if own > at {
            json_patch::merge(&mut self.document, &message.patch());
            self.at.insert(message.collection.clone(), own);
        }
        if let Some(place) = &mut self.last {
            place.sequence = message.sequence;
            let header = |name| message.stored.header(name).map(str::to_owned);
            place.message = header("Duality-Id").zip(header("Part"));
        }
        Ok(())
    }
}

impl Place {
    /// Where a consumer begins that reads what is appended from now on.
    fn end(info: &Info) -> Self {
        Self { created: info.created.to_string(), sequence: info.state.last_sequence, message: None }
    }
}
