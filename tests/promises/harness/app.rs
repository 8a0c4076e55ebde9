//! A service in this process, with its own port and database file.

use std::future::Future;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::thread::JoinHandle;

use duality::{Running, Service, Settings, StartError, aggregates};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::engine::{files_of, new_database};
use super::{Client, Response, Stream};

type Work = Box<dyn for<'a> FnOnce(&'a Running) -> Pin<Box<dyn Future<Output = ()> + 'a>> + Send>;

type Thread = JoinHandle<Result<(), StartError>>;

/// The shipped service, unless a test supplies another one.
pub(crate) struct App {
    directory: TempDir,
    settings: Settings,
    collections: Arc<dyn Fn() -> Service + Send + Sync>,
    running: Option<(UnboundedSender<Work>, Thread)>,
    pub(crate) address: SocketAddr,
    /// With that for operators, if they have one of their own.
    pub(crate) addresses: Vec<SocketAddr>,
}

impl App {
    pub(crate) fn start() -> Self {
        Self::with(|_| {})
    }

    /// Starts it with settings that differ from the defaults.
    pub(crate) fn with(change: impl FnOnce(&mut Settings)) -> Self {
        Self::serving(aggregates::shipped, change)
    }

    /// Starts it with collections other than the shipped ones.
    pub(crate) fn serving(
        collections: impl Fn() -> Service + Send + Sync + 'static,
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        let directory = crate::harness::directory();
        let mut settings = Settings::default();
        settings.listen = "127.0.0.1:0".to_owned();
        settings.database = new_database(directory.path());
        settings.files = files_of(&settings.database);
        settings.workers = Some(count(2));
        change(&mut settings);
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut app = Self {
            directory,
            settings,
            collections: Arc::new(collections),
            running: None,
            address: nowhere,
            addresses: Vec::new(),
        };
        app.resume();
        app
    }

    /// Restarts it, on another port.
    pub(crate) fn resume(&mut self) {
        self.try_resume().unwrap();
    }

    /// Restarts it with other collections.
    pub(crate) fn resume_serving(&mut self, collections: impl Fn() -> Service + Send + Sync + 'static) {
        self.try_resume_serving(collections).unwrap();
    }

    /// Restarts it, or returns the error that prevents the start.
    pub(crate) fn try_resume_serving(
        &mut self,
        collections: impl Fn() -> Service + Send + Sync + 'static,
    ) -> Result<(), String> {
        self.collections = Arc::new(collections);
        self.try_resume()
    }

    fn try_resume(&mut self) -> Result<(), String> {
        let (service, settings) = ((self.collections)(), self.settings.clone());
        let (started, starting) = std::sync::mpsc::channel();
        let (sender, mut work) = unbounded_channel::<Work>();
        let thread = std::thread::spawn(move || {
            actix::System::new().block_on(async move {
                let running = service.start(settings).await?;
                started.send(running.addresses().to_vec()).unwrap();
                while let Some(work) = work.recv().await {
                    work(&running).await;
                }
                Ok(running.stop().await?)
            })
        });
        let Ok(addresses) = starting.recv() else {
            return Err(chain(&thread.join().unwrap().unwrap_err()));
        };
        self.address = addresses[0];
        self.addresses = addresses;
        self.running = Some((sender, thread));
        Ok(())
    }

    pub(crate) fn stop(&mut self) {
        self.try_stop().unwrap();
    }

    /// Stops it, or returns the error of the stop.
    pub(crate) fn try_stop(&mut self) -> Result<(), String> {
        let Some((sender, thread)) = self.running.take() else { return Ok(()) };
        drop(sender);
        thread.join().unwrap().map_err(|error| chain(&error))
    }

    /// Stops it, and returns the error with which it ends.
    pub(crate) fn stop_failing(&mut self) -> String {
        let (sender, thread) = self.running.take().unwrap();
        drop(sender);
        chain(&thread.join().unwrap().unwrap_err())
    }

    pub(crate) fn restart(&mut self) {
        self.stop();
        self.resume();
    }

    /// Runs a background step of the service, or injects a fault, and waits for it to complete.
    pub(crate) fn hook(
        &self,
        work: impl for<'a> FnOnce(&'a Running) -> Pin<Box<dyn Future<Output = ()> + 'a>> + Send + 'static,
    ) {
        let (done, doing) = std::sync::mpsc::channel();
        let work: Work = Box::new(move |running| {
            let work = work(running);
            Box::pin(async move {
                work.await;
                done.send(()).unwrap();
            })
        });
        assert!(self.running.as_ref().unwrap().0.send(work).is_ok());
        doing.recv().unwrap();
    }

    pub(crate) fn prune(&self) {
        self.hook(|running| Box::pin(running.prune()));
    }

    /// Makes everything written so far older than the retention period, and prunes it.
    pub(crate) fn prune_everything(&self) {
        let retention = i64::try_from(self.settings.retention.as_millis()).unwrap();
        self.turn_clock(retention + 1000);
        self.prune();
    }

    pub(crate) fn lose_wake_ups(&self) {
        self.hook(|running| Box::pin(running.lose_wake_ups()));
    }

    pub(crate) fn lose_batch(&self) {
        self.hook(|running| Box::pin(running.lose_batch()));
    }

    /// No command is executed until the return value is dropped.
    pub(crate) fn hold_writes(&self) -> std::sync::mpsc::Sender<()> {
        let (sender, receiver) = std::sync::mpsc::channel();
        self.hook(move |running| {
            sender.send(running.hold_writes()).unwrap();
            Box::pin(async {})
        });
        receiver.recv().unwrap()
    }

    pub(crate) fn turn_clock(&self, milliseconds: i64) {
        self.hook(move |running| {
            running.turn_clock(milliseconds);
            Box::pin(async {})
        });
    }

    /// A figure of the running service.
    pub(crate) fn figure(&self, read: impl FnOnce(&Running) -> usize + Send + 'static) -> usize {
        let (sender, receiver) = std::sync::mpsc::channel();
        self.hook(move |running| {
            sender.send(read(running)).unwrap();
            Box::pin(async {})
        });
        receiver.recv().unwrap()
    }

    pub(crate) fn sessions(&self) -> usize {
        self.figure(Running::sessions)
    }

    /// The number of bytes that count against `--shared-bodies`.
    pub(crate) fn shared_body_bytes(&self) -> usize {
        self.figure(Running::shared_body_bytes)
    }

    /// The bytes of memory that count as used for something, according to the metrics.
    pub(crate) fn memory(&self, what: &str) -> usize {
        self.memory_of(&[what])
    }

    /// The same for several things together, at one moment.
    pub(crate) fn memory_of(&self, what: &[&str]) -> usize {
        let metrics = self.get("/metrics");
        let bytes = |what: &&str| -> usize {
            let sample = format!("duality_memory_bytes{{what=\"{what}\"}} ");
            metrics.text().lines().find_map(|line| line.strip_prefix(&sample)).unwrap().parse().unwrap()
        };
        what.iter().map(bytes).sum()
    }

    /// Changes the settings for the next start.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.settings);
    }

    pub(crate) fn database(&self) -> &Path {
        &self.settings.database
    }

    /// The directory of the files of this service.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The name with which the files beside the database begin, such as those of projections.
    pub(crate) fn files(&self) -> PathBuf {
        files_of(&self.settings.database)
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.address)
    }

    pub(crate) fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&[u8]>) -> Response {
        self.client().request(method, path, headers, body)
    }

    pub(crate) fn get(&self, path: &str) -> Response {
        self.request("GET", path, &[], None)
    }

    /// A write with a JSON body.
    pub(crate) fn write(&self, method: &str, path: &str, json: &str) -> Response {
        self.request(method, path, &[("Content-Type", "application/json")], Some(json.as_bytes()))
    }

    pub(crate) fn post(&self, path: &str, json: &str) -> Response {
        self.write("POST", path, json)
    }

    pub(crate) fn patch(&self, path: &str, json: &str) -> Response {
        self.write("PATCH", path, json)
    }

    pub(crate) fn delete(&self, path: &str) -> Response {
        self.request("DELETE", path, &[], None)
    }

    /// Sends a command without fields.
    pub(crate) fn command(&self, path: &str) -> Response {
        self.request("POST", path, &[], None)
    }

    /// Opens a cart, and returns its path.
    #[track_caller]
    pub(crate) fn open_cart(&self) -> String {
        let opened = self.command("/carts");
        assert_eq!(opened.status, 201, "{}", opened.text());
        opened.header("Location").unwrap().to_owned()
    }

    pub(crate) fn add_item(&self, cart: &str, item: &str) -> Response {
        self.post(&format!("{cart}/add-item"), &serde_json::json!({ "item": item }).to_string())
    }

    pub(crate) fn follow(&self, path: &str, headers: &[(&str, &str)]) -> Stream {
        Stream::open(self.address, path, headers)
    }

    /// The state at a path, and its cursor.
    pub(crate) fn load(&self, path: &str) -> (Value, String) {
        let response = self.get(path);
        assert_eq!(response.status, 200, "{}", response.text());
        (response.json(), response.cursor())
    }
}

impl Drop for App {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        self.stop();
    }
}

/// A number for a setting that cannot be zero.
pub(crate) fn count(number: usize) -> NonZeroUsize {
    NonZeroUsize::new(number).unwrap()
}

/// An error with its sources, as it is in the log.
fn chain(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(Some(error), |error| error.source());
    sources.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
