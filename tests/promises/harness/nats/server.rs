//! A NATS server of one test.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::{self, Context};
use async_nats::{ConnectOptions, HeaderMap};
use tempfile::TempDir;

use super::super::{DEADLINE, eventually, files_with, lasting_address, not_tested};
use super::message::Stored;

/// A `nats-server` with JetStream, with a port and a directory of its own. It is killed when it is dropped.
pub(crate) struct NatsServer {
    program: PathBuf,
    directory: TempDir,
    pub(crate) address: SocketAddr,
    /// The name and the password that it asks for, if it does.
    login: Option<[String; 2]>,
    /// The largest number of bytes that its streams may have.
    limit: u64,
    /// What nobody may ask it for.
    denied: Option<&'static str>,
    child: Option<Child>,
}

/// What a server had on its disk at some time.
pub(crate) struct Saved(TempDir);

/// How long a message may take that may not be there any more.
const PATIENCE: Duration = Duration::from_millis(500);

/// Room for the limit of a stream that the service creates, and for more.
const PLENTY: u64 = 4 << 30;

impl NatsServer {
    /// Starts one. `None` if the program is missing, unless the environment requires it.
    pub(crate) fn start() -> Option<Self> {
        Self::with(None, PLENTY)
    }

    /// Starts one that asks for a name and a password.
    pub(crate) fn with_password(user: &str, password: &str) -> Option<Self> {
        Self::with(Some([user.to_owned(), password.to_owned()]), PLENTY)
    }

    /// Starts one whose streams may have this many bytes.
    pub(crate) fn with_limit(bytes: u64) -> Option<Self> {
        Self::with(None, bytes)
    }

    fn with(login: Option<[String; 2]>, limit: u64) -> Option<Self> {
        let Some(program) = program() else {
            not_tested("publishing to NATS is", "nats-server is not installed");
            return None;
        };
        let (directory, address) = (crate::harness::directory(), lasting_address());
        let mut server = Self { program, directory, address, login, limit, denied: None, child: None };
        server.resume();
        Some(server)
    }

    /// What `--publish` takes.
    pub(crate) fn url(&self) -> String {
        let login = self.login.as_ref().map_or_else(String::new, |[user, password]| format!("{user}:{password}@"));
        format!("nats://{login}{}", self.address)
    }

    /// Starts it again, on the same port and with what is in its directory.
    pub(crate) fn resume(&mut self) {
        assert!(self.child.is_none(), "it runs");
        let (data, configuration) = (self.data(), self.directory.path().join("server.conf"));
        let Self { address, login, limit, denied, .. } = self;
        let mut options = login.as_ref().map_or_else(String::new, |[user, password]| {
            format!("authorization {{ user: {user}, password: \"{password}\" }}")
        });
        if let Some(denied) = denied {
            let user = format!("{{ user: anybody, permissions: {{ publish: {{ deny: \"{denied}\" }} }} }}");
            options = format!("authorization {{ users: [{user}] }}\nno_auth_user: anybody");
        }
        let text = format!(
            "host: \"{}\"\nport: {}\njetstream {{ store_dir: {data:?}, max_file_store: {limit} }}\n{options}\n",
            address.ip(),
            address.port(),
        );
        std::fs::write(&configuration, text).unwrap();
        let log = File::options().create(true).append(true).open(self.directory.path().join("log")).unwrap();
        let mut command = Command::new(&self.program);
        command.arg("--config").arg(configuration).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().unwrap());
        eventually("nats-server is ready", || greets(self.address));
    }

    /// The same with another limit of what its streams may have.
    pub(crate) fn resume_with_limit(&mut self, bytes: u64) {
        self.limit = bytes;
        self.resume();
    }

    /// The same, but nobody may publish to these subjects.
    pub(crate) fn resume_without(&mut self, denied: &'static str) {
        self.denied = Some(denied);
        self.resume();
        self.denied = None;
    }

    /// Ends it at once, with `kill -9`.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Ends it as an operator does.
    pub(crate) fn stop(&mut self) {
        self.signal("TERM");
        let mut child = self.child.take().unwrap();
        eventually("nats-server ends", || child.try_wait().unwrap().is_some());
    }

    pub(crate) fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// It keeps its connections, and answers nothing, until [`NatsServer::thaw`].
    pub(crate) fn freeze(&self) {
        self.signal("STOP");
    }

    pub(crate) fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// A copy of its directory. It must not run.
    pub(crate) fn save(&self) -> Saved {
        assert!(self.child.is_none(), "it runs");
        let saved = crate::harness::directory();
        copy(&self.data(), &saved.path().join("data"));
        Saved(saved)
    }

    /// Replaces its directory by a copy. It must not run.
    pub(crate) fn put_back(&self, saved: &Saved) {
        assert!(self.child.is_none(), "it runs");
        std::fs::remove_dir_all(self.data()).unwrap();
        copy(&saved.0.path().join("data"), &self.data());
    }

    /// Removes all messages of a stream, as `nats stream purge` does. A stream that does not exist has none.
    pub(crate) fn purge(&self, name: &str) {
        self.block_on(async |context| {
            if let Ok(stream) = context.get_stream(name).await {
                stream.purge().await.unwrap();
            }
        });
    }

    /// Removes a stream, as `nats stream rm` does.
    pub(crate) fn delete(&self, name: &str) {
        self.block_on(async |context| {
            if context.get_stream(name).await.is_ok() {
                context.delete_stream(name).await.unwrap();
            }
        });
    }

    /// Its files in which a text occurs.
    pub(crate) fn files_with(&self, text: &str) -> Vec<PathBuf> {
        files_with(&self.data(), text)
    }

    /// The number of the oldest message of a stream, and that of the last one that it has ever had.
    pub(crate) fn last_sequence(&self, name: &str) -> (u64, u64) {
        self.block_on(async |context| {
            let Ok(stream) = context.get_stream(name).await else { return (0, 0) };
            let state = &stream.cached_info().state;
            (state.first_sequence, state.last_sequence)
        })
    }

    /// All messages of a stream, in order. A stream that does not exist has none. `None` if some are removed meanwhile.
    pub(crate) fn messages(&self, name: &str) -> Option<Vec<Stored>> {
        self.block_on(async |context| {
            let Ok(stream) = context.get_stream(name).await else { return Some(Vec::new()) };
            if stream.cached_info().state.messages == 0 {
                return Some(Vec::new());
            }
            let config = pull::Config {
                deliver_policy: DeliverPolicy::All,
                ack_policy: AckPolicy::None,
                memory_storage: true,
                ..pull::Config::default()
            };
            let consumer = stream.create_consumer(config).await.ok()?;
            let pending = usize::try_from(consumer.cached_info().num_pending).unwrap();
            let mut reading = consumer.messages().await.unwrap();
            let mut messages = Vec::with_capacity(pending);
            while messages.len() < pending {
                let next = tokio::time::timeout(PATIENCE, next(&mut reading)).await.ok()?;
                messages.push(Stored::delivered(&next?.ok()?));
            }
            Some(messages)
        })
    }

    /// Does something with a connection of its own.
    pub(crate) fn block_on<T>(&self, work: impl AsyncFnOnce(Context) -> T) -> T {
        assert!(self.is_running(), "it does not run");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut options = ConnectOptions::new();
            if let Some([user, password]) = &self.login {
                options = options.user_and_password(user.clone(), password.clone());
            }
            let client = options.connect(self.address.to_string()).await.unwrap();
            work(jetstream::new(client)).await
        })
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
            let lines = log.lines().filter(|line| line.contains("[ERR]") || line.contains("[WRN]"));
            let lines: Vec<_> = lines.take(20).collect();
            eprintln!("nats-server: {lines:#?}");
        }
    }
}

/// The next item of a stream of the client library.
pub(super) async fn next<S: futures_core::Stream + Unpin>(stream: &mut S) -> Option<S::Item> {
    std::future::poll_fn(|context| std::pin::Pin::new(&mut *stream).poll_next(context)).await
}

/// The headers of a message by their names, which have no order.
pub(super) fn headers(map: Option<&HeaderMap>) -> Vec<(String, String)> {
    let pairs = map.into_iter().flat_map(HeaderMap::iter);
    let mut headers: Vec<_> = pairs
        .flat_map(|(name, values)| values.iter().map(move |value| (name.to_string(), value.as_str().to_owned())))
        .collect();
    headers.sort();
    headers
}

/// Whether a NATS server answers there.
fn greets(address: SocketAddr) -> bool {
    let Ok(socket) = TcpStream::connect(address) else { return false };
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut line = String::new();
    BufReader::new(socket).read_line(&mut line).is_ok_and(|_| line.starts_with("INFO "))
}

/// Debian has it where only root looks.
fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/usr/local/sbin", "target/tools/bin"].map(PathBuf::from);
    let places = std::env::split_paths(&path).chain(more);
    places.map(|place| place.join("nats-server")).find(|program| program.is_file())
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}
