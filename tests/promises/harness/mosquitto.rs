//! A private MQTT broker, and a program that follows a service through it.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use percent_encoding::percent_decode_str;
use rumqttc::v5::mqttbytes::QoS::AtLeastOnce;
use rumqttc::v5::mqttbytes::v5::{Filter, Packet, Publish};
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Client, eventually, lasting_address, not_tested};

/// A broker that keeps what it has been told for more than a second.
pub(crate) struct Mosquitto {
    directory: TempDir,
    pub(crate) address: SocketAddr,
    child: Child,
}

impl Mosquitto {
    /// `None` if the program is missing.
    pub(crate) fn start() -> Option<Self> {
        let program = program();
        if program.is_none() {
            not_tested("MQTT is", "mosquitto is not installed");
        }
        let (directory, address) = (crate::harness::directory(), lasting_address());
        let child = run(program?, directory.path(), address);
        Some(Self { directory, address, child })
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again, with what it has on disk.
    pub(crate) fn resume(&mut self) {
        self.child = run(program().unwrap(), self.directory.path(), self.address);
    }

    /// Removes what it has on disk.
    pub(crate) fn forget(&self) {
        let _ = std::fs::remove_file(self.directory.path().join("mosquitto.db"));
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program() -> Option<&'static Path> {
    ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto"].map(Path::new).into_iter().find(|path| path.exists())
}

fn run(program: &Path, directory: &Path, address: SocketAddr) -> Child {
    let configuration = directory.join("mosquitto.conf");
    let text = format!(
        "listener {} {}\nallow_anonymous true\nuser root\npersistence true\npersistence_location {}/\n\
         autosave_on_changes true\nautosave_interval 1\n",
        address.port(),
        address.ip(),
        directory.display(),
    );
    std::fs::write(&configuration, text).unwrap();
    let mut command = Command::new(program);
    command.arg("-c").arg(configuration).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().unwrap();
    eventually("the broker answers", || TcpStream::connect(address).is_ok());
    child
}

/// A copy of the state, as `docs/messaging.md` says.
pub(crate) struct Subscriber {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    broker: SocketAddr,
    service: Mutex<SocketAddr>,
    document: Mutex<Value>,
    /// How many messages have changed it.
    applied: AtomicUsize,
    is_over: AtomicBool,
}

impl Subscriber {
    pub(crate) fn start(broker: SocketAddr, service: SocketAddr) -> Self {
        let shared = Arc::new(Shared {
            broker,
            service: Mutex::new(service),
            document: Mutex::default(),
            applied: AtomicUsize::new(0),
            is_over: AtomicBool::new(false),
        });
        let running = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            while !running.is_over() {
                eventually("the broker answers", || running.is_over() || TcpStream::connect(running.broker).is_ok());
                runtime.block_on(running.follow());
            }
        });
        Self { shared, thread: Some(thread) }
    }

    /// The service has moved to this address.
    pub(crate) fn moved(&self, service: SocketAddr) {
        *self.shared.service.lock().unwrap() = service;
    }

    pub(crate) fn applied(&self) -> usize {
        self.shared.applied.load(Ordering::Relaxed)
    }

    /// Waits until it is what a service has to which nobody writes meanwhile.
    #[track_caller]
    pub(crate) fn assert_exact(&self) {
        let service = *self.shared.service.lock().unwrap();
        let state = Client::connect(service).request("GET", "/aggregates", &[], None).json();
        eventually("the copy is the state", || *self.shared.document.lock().unwrap() == state);
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        let thread = self.thread.take().unwrap().join();
        assert!(std::thread::panicking() || thread.is_ok(), "a subscriber panicked");
    }
}

impl Shared {
    /// Follows one connection to its end.
    async fn follow(&self) {
        let name = format!("copy-{self:p}");
        let mut options = MqttOptions::new(name, self.broker.ip().to_string(), self.broker.port());
        // It notices soon that it is over.
        options.set_keep_alive(std::time::Duration::from_secs(5));
        let (client, mut events) = AsyncClient::new(options, 10);
        let filters = ["duality/#", "duality-checkpoint"].map(|filter| Filter::new(filter, AtLeastOnce));
        client.subscribe_many(filters).await.unwrap();
        let mut place = None;
        let mut last = 0;
        while let Ok(event) = events.poll().await {
            match event {
                _ if self.is_over() => return,
                Event::Incoming(Packet::SubAck(_)) => place = self.load(),
                Event::Incoming(Packet::Publish(publish)) => {
                    let message = Received::of(&publish);
                    let is_gap = message.number > last + 1 || (message.body.is_none() && message.number > last);
                    last = if is_gap { message.number } else { last.max(message.number) };
                    if let Some(before) = place.take() {
                        let after = if is_gap { None } else { self.apply(before, &message) };
                        place = after.or_else(|| self.load());
                    }
                }
                _ => {}
            }
        }
    }

    /// Loads the state as soon as the service answers.
    fn load(&self) -> Option<Place> {
        let mut response = None;
        eventually("the service answers", || {
            let service = *self.service.lock().unwrap();
            response = Client::try_get(service, "/aggregates");
            self.is_over() || response.is_some()
        });
        let response = response?;
        *self.document.lock().unwrap() = response.json();
        let epoch = response.header("X-Epoch").unwrap().to_owned();
        Some(Place { epoch, start: response.revision(), at: BTreeMap::new() })
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Applies a message. `None` if it does not follow.
    fn apply(&self, mut place: Place, message: &Received) -> Option<Place> {
        let Some(body) = &message.body else { return Some(place) };
        let id = message.header("Duality-Id")?;
        let (epoch, rest) = id.split_once('.')?;
        let revision: i64 = rest.split('.').next()?.parse().ok()?;
        let part = message.header("Part")?.split_once('/')?.0.parse().ok()?;
        let catch_up = message.header("Catch-Up");
        if catch_up == message.header("Sequence") {
            *self.document.lock().unwrap() = json!({});
            place = Place { epoch: epoch.to_owned(), start: -1, at: BTreeMap::new() };
        }
        let (collection, token) = message.topic.strip_prefix("duality/")?.split_once('/')?;
        let at = place.at.get(collection).copied().unwrap_or((place.start, u32::MAX));
        let previous = message.header("Previous").map(|previous| previous.parse::<i64>().unwrap());
        if epoch != place.epoch || previous.is_some_and(|previous| previous > at.0) {
            return None;
        }
        let is_known = if catch_up.is_some() { revision <= place.start } else { (revision, part) <= at };
        if !is_known {
            let key = percent_decode_str(token).decode_utf8().unwrap();
            let body = if token == "_" { body.clone() } else { json!({ key.as_ref(): body }) };
            json_patch::merge(&mut self.document.lock().unwrap(), &json!({ collection: body }));
            place.at.insert(collection.to_owned(), (revision, part));
            self.applied.fetch_add(1, Ordering::Relaxed);
        }
        Some(place)
    }
}

/// Where a copy stands.
struct Place {
    epoch: String,
    /// The revision that was loaded.
    start: i64,
    /// The revision and part of the last message about each collection.
    at: BTreeMap<String, (i64, u32)>,
}

/// What came from the broker.
struct Received {
    topic: String,
    headers: Vec<(String, String)>,
    /// The number of the message; without a body, that of the last one.
    number: u64,
    body: Option<Value>,
}

impl Received {
    fn of(publish: &Publish) -> Self {
        let topic = String::from_utf8(publish.topic.to_vec()).unwrap();
        let headers = publish.properties.clone().map(|properties| properties.user_properties).unwrap_or_default();
        let body: Value = serde_json::from_slice(&publish.payload).unwrap();
        if topic == "duality-checkpoint" {
            let number = body["count"].as_u64().unwrap();
            return Self { topic, headers, number, body: None };
        }
        let mut received = Self { topic, headers, number: 0, body: Some(body) };
        received.number = received.header("Sequence").unwrap().parse().unwrap();
        received
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}
