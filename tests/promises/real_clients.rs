//! Consumers built on third-party libraries that know nothing of epochs or catch-ups: libraries for Server-Sent Events
//! and JSON merge patches from npm and `PyPI`, used by the programs in `tests/clients`.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use serde_json::{Value, json};

use crate::harness::{Client, DEADLINE, Process, Response, eventually, lasting_address, not_tested};

const JSON: [(&str, &str); 1] = [("Content-Type", "application/json")];

/// A heartbeat short enough for bookmarks.
const ALIVE: [&str; 2] = ["--heartbeat", "200ms"];

/// No retention, so that reconnecting clients need a catch-up.
const FORGETFUL: [&str; 6] = ["--heartbeat", "200ms", "--retention", "0s", "--prune-interval", "50ms"];

#[test]
fn eventsource_keeps_an_exact_copy() {
    assert_keeps_an_exact_copy(node(), "eventsource.mjs");
}

#[test]
fn fetch_event_source_keeps_an_exact_copy() {
    assert_keeps_an_exact_copy(node(), "fetch-event-source.mjs");
}

#[test]
fn httpx_sse_keeps_an_exact_copy() {
    assert_keeps_an_exact_copy(python(), "httpx_sse_client.py");
}

#[test]
fn sseclient_py_keeps_an_exact_copy() {
    assert_keeps_an_exact_copy(python(), "sseclient_py_client.py");
}

fn assert_keeps_an_exact_copy(language: Result<Language, String>, program: &str) {
    let Some(language) = available(language, program) else { return };
    let directory = crate::harness::directory();
    let (one, another) = (directory.path().join("one.db"), directory.path().join("another.db"));
    let address = lasting_address();

    let service = Process::start_on(address, &one, &ALIVE);
    write(address, "POST", "/persons", r#"{"name":"Ann","city":"Rome"}"#);
    write(address, "POST", "/persons", r#"{"name":"Bob","city":"Oslo"}"#);
    let mut consumers = [("/persons", "/person-events"), ("/locations", "/location-events")]
        .map(|(state, events)| Consumer { state, process: Running::start(&language, program, address, state, events) });
    // A consumer starts from the state that it has loaded.
    assert_current_state(&mut consumers, address);
    // Some libraries mistake each of these characters for the end of a line.
    write(address, "POST", "/persons", "{\"name\":\"\u{85}\u{2028}\u{1f600}\",\"city\":\"Rome\",\"spouse\":1}");
    write(address, "PATCH", "/persons/1", r#"{"city":null}"#);
    write(address, "DELETE", "/persons/2", "");
    assert_current_state(&mut consumers, address);
    let old = get(address, "/persons").cursor();

    // While the consumers are disconnected, aggregates are deleted and recreated, and the events are pruned.
    service.kill();
    let elsewhere = Process::start(&one, &FORGETFUL);
    write(elsewhere.address, "DELETE", "/persons/3", "");
    write(elsewhere.address, "POST", "/persons", r#"{"name":"Cid","city":"Rome"}"#);
    write(elsewhere.address, "POST", "/persons", r#"{"name":"Dee","city":"Oslo"}"#);
    write(elsewhere.address, "DELETE", "/persons/4", "");
    write(elsewhere.address, "PATCH", "/persons/1", r#"{"name":"Anna"}"#);
    eventually("the missed events are pruned", || is_pruned(elsewhere.address, &old));
    elsewhere.kill();
    let mut service = Process::start_on(address, &one, &FORGETFUL);
    assert_current_state(&mut consumers, address);
    write(address, "POST", "/persons", r#"{"name":"Eve","city":"Rome"}"#);
    write(address, "DELETE", "/persons/5", "");
    assert_current_state(&mut consumers, address);
    assert!(consumers.iter().all(|consumer| !consumer.process.was_reset), "{program} needs only a catch-up");

    // Replace the database by another one with the same keys and about as many revisions.
    service.signal("TERM");
    assert!(service.wait().success());
    let elsewhere = Process::start(&another, &[]);
    for number in 0..12 {
        let city = if number % 2 == 0 { "Bonn" } else { "Rome" };
        let body = json!({"name": number.to_string(), "city": city});
        write(elsewhere.address, "POST", "/persons", &body.to_string());
    }
    write(elsewhere.address, "DELETE", "/persons/1", "");
    elsewhere.kill();
    let _service = Process::start_on(address, &another, &ALIVE);
    assert_current_state(&mut consumers, address);
    write(address, "PATCH", "/persons/2", r#"{"city":null,"spouse":3}"#);
    assert_current_state(&mut consumers, address);
    assert!(consumers.iter().all(|consumer| consumer.process.was_reset), "{program} started from nothing");
}

/// Skips a missing language, unless the environment requires it.
fn available(language: Result<Language, String>, program: &str) -> Option<Language> {
    language.inspect_err(|why| not_tested(&format!("{program} is"), why)).ok()
}

#[track_caller]
fn write(address: SocketAddr, method: &str, path: &str, body: &str) {
    let body = (!body.is_empty()).then_some(body.as_bytes());
    let response = Client::connect(address).request(method, path, &JSON, body);
    assert!((200..300).contains(&response.status), "{}", response.text());
}

fn get(address: SocketAddr, path: &str) -> Response {
    Client::connect(address).request("GET", path, &[], None)
}

fn is_pruned(address: SocketAddr, cursor: &str) -> bool {
    let headers = [("Accept", "application/json"), ("Prefer", "handling=strict"), ("Last-Event-ID", cursor)];
    Client::connect(address).request("GET", "/person-events", &headers, None).status == 410
}

#[track_caller]
fn assert_current_state(consumers: &mut [Consumer], address: SocketAddr) {
    for Consumer { state, process } in consumers {
        let fresh = get(address, state);
        assert_eq!(process.state_at(&fresh.cursor()), fresh.json(), "{state} at {}", fresh.cursor());
    }
}

/// A consumer of a part of the state.
struct Consumer {
    state: &'static str,
    process: Running,
}

/// A running program of `tests/clients`.
struct Running {
    child: Child,
    lines: Receiver<String>,
    /// Whether its state was ever `null`.
    was_reset: bool,
    last: String,
}

impl Running {
    fn start(language: &Language, program: &str, address: SocketAddr, state: &str, events: &str) -> Self {
        let mut child = Command::new(&language.command)
            .arg(language.programs.join(program))
            .args([&format!("http://{address}"), state, events])
            .env("no_proxy", "127.0.0.1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, lines, was_reset: false, last: String::new() }
    }

    /// Its state once it has reached this cursor.
    #[track_caller]
    fn state_at(&mut self, cursor: &str) -> Value {
        let start = Instant::now();
        loop {
            let left = DEADLINE.saturating_sub(start.elapsed());
            let line = self.lines.recv_timeout(left);
            self.last = line.unwrap_or_else(|error| panic!("{error}: not at {cursor}, but {}", self.last));
            let mut line: Value = serde_json::from_str(&self.last).unwrap();
            self.was_reset |= line["state"].is_null();
            if line["cursor"] == cursor {
                return line["state"].take();
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The interpreter of a language, and the directory of the programs and their libraries.
struct Language {
    command: PathBuf,
    programs: PathBuf,
}

fn node() -> Result<Language, String> {
    run(
        Command::new("node").args(["-e", "process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)"]),
        "Node 20 or later",
    )?;
    run(Command::new("npm").arg("--version"), "npm")?;
    let programs = installed("node", "package-lock.json", |programs| {
        run(
            Command::new("npm").args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(programs),
            "npm ci",
        )
    })?;
    Ok(Language { command: "node".into(), programs })
}

fn python() -> Result<Language, String> {
    run(Command::new("python3").args(["-c", "import venv, ensurepip"]), "Python 3 with venv")?;
    let programs = installed("python", "requirements.txt", |programs| {
        run(Command::new("python3").args(["-m", "venv", "--clear", "venv"]).current_dir(programs), "venv")?;
        let pip = ["-m", "pip", "install", "--disable-pip-version-check", "-r", "requirements.txt"];
        run(Command::new(programs.join("venv/bin/python")).args(pip).current_dir(programs), "pip install")
    })?;
    Ok(Language { command: programs.join("venv/bin/python"), programs })
}

/// Copies the programs of a language to the target directory, and installs their libraries there if they are missing.
fn installed(
    language: &str,
    pinned: &str,
    install: impl FnOnce(&Path) -> Result<(), String>,
) -> Result<PathBuf, String> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("clients");
    let programs = target.join(language);
    std::fs::create_dir_all(&programs).unwrap();
    // Concurrent tests and test runs wait here.
    let lock = File::create(target.join(format!("{language}.lock"))).unwrap();
    lock.lock().unwrap();
    for entry in std::fs::read_dir(Path::new("tests/clients").join(language)).unwrap() {
        let (entry, read) = (entry.unwrap(), |path: &Path| std::fs::read(path).unwrap_or_default());
        let copy = programs.join(entry.file_name());
        if entry.path().is_file() && read(&entry.path()) != read(&copy) {
            std::fs::copy(entry.path(), copy).unwrap();
        }
    }
    let (wanted, marker) = (std::fs::read(programs.join(pinned)).unwrap(), programs.join("installed"));
    if std::fs::read(&marker).ok().as_ref() != Some(&wanted) {
        install(&programs)?;
        std::fs::write(marker, wanted).unwrap();
    }
    Ok(programs)
}

/// Runs a command, and returns the reason if it fails.
fn run(command: &mut Command, what: &str) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{what}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(format!("{what}: {:?} {} {said}", command.get_program().display(), output.status))
}
