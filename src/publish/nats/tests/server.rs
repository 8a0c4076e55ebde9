//! A NATS server of one test.

use std::io::Write as _;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use async_nats::{Client, ConnectOptions};
use tempfile::TempDir;

/// It has a free port and a directory of its own, and is killed when it is dropped.
pub(super) struct NatsServer {
    directory: TempDir,
    port: u16,
    program: PathBuf,
    child: Child,
}

const DEADLINE: Duration = Duration::from_secs(20);

impl NatsServer {
    /// `None` if the program is missing, unless the environment requires it.
    pub(super) fn start() -> Option<Self> {
        Self::with("")
    }

    pub(super) fn without_jetstream() -> Option<Self> {
        Self::configured(|_| String::new())
    }

    /// With more lines of configuration.
    pub(super) fn with(options: &str) -> Option<Self> {
        Self::configured(|directory| format!("jetstream {{ store_dir: {directory:?} }}\n{options}"))
    }

    fn configured(options: impl Fn(&str) -> String) -> Option<Self> {
        let Some(program) = program() else {
            let required = std::env::var_os("DUALITY_REQUIRE_CLIENTS").is_some_and(|value| value == "1");
            assert!(!required, "nats-server is not installed");
            // The output of eprintln! is not shown when a test passes.
            writeln!(std::io::stderr(), "publishing to NATS is NOT TESTED: nats-server is not installed").unwrap();
            return None;
        };
        let mut directory = tempfile::tempdir().unwrap();
        // Another program may take the port before the server has it.
        loop {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let options = options(&directory.path().join("data").to_string_lossy());
            let text = format!("host: \"127.0.0.1\"\nport: {port}\n{options}\n");
            std::fs::write(directory.path().join("server.conf"), text).unwrap();
            let child = spawn(&program, &directory);
            let mut server = Self { directory, port, program: program.clone(), child };
            if server.is_ready() {
                return Some(server);
            }
            directory = std::mem::replace(&mut server.directory, tempfile::tempdir().unwrap());
        }
    }

    /// Its files in which a text occurs.
    pub(super) fn files_with(&self, text: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut directories = vec![self.directory.path().join("data")];
        while let Some(directory) = directories.pop() {
            for path in std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
                if path.is_dir() {
                    directories.push(path);
                } else if memchr::memmem::find(&std::fs::read(&path).unwrap_or_default(), text.as_bytes()).is_some() {
                    found.push(path);
                }
            }
        }
        found
    }

    pub(super) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Another client.
    pub(super) async fn client(&self) -> Client {
        ConnectOptions::new().connect(self.url()).await.unwrap()
    }

    pub(super) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again, on the same port and with what is in its directory.
    pub(super) fn resume(&mut self) {
        let start = Instant::now();
        loop {
            self.child = spawn(&self.program, &self.directory);
            if self.is_ready() {
                return;
            }
            assert!(start.elapsed() < DEADLINE, "nats-server does not start again");
        }
    }

    /// Waits until it greets, or has ended.
    fn is_ready(&mut self) -> bool {
        let start = Instant::now();
        while !std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok_and(greets) {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            assert!(start.elapsed() < DEADLINE, "nats-server does not start");
            std::thread::sleep(Duration::from_millis(5));
        }
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn greets(mut stream: std::net::TcpStream) -> bool {
    let mut greeting = [0; 5];
    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    std::io::Read::read_exact(&mut stream, &mut greeting).is_ok() && &greeting == b"INFO "
}

fn spawn(program: &PathBuf, directory: &TempDir) -> Child {
    let configuration = directory.path().join("server.conf");
    let mut command = Command::new(program);
    command.arg("--config").arg(configuration).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

/// Debian installs it into /usr/sbin, where not everybody looks.
fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/bin".into()]);
    directories.map(|directory| directory.join("nats-server")).find(|program| program.is_file())
}
