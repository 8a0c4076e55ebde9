//! The program as a separate process that can be killed.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use super::engine::files_of;
use super::{DEADLINE, eventually, not_tested};

pub(crate) struct Process {
    child: Child,
    pub(crate) address: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
}

const ANY_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// An address that is still free when what listens there restarts. Its port is outside the ephemeral range, so that the system
/// does not assign it meanwhile, for example to a consumer that tries to reconnect.
pub(crate) fn lasting_address() -> SocketAddr {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let spread = u16::try_from(std::process::id() % 1000).unwrap() * 10;
    std::iter::repeat_with(|| TAKEN.fetch_add(1, Ordering::Relaxed))
        .map(|taken| SocketAddr::from((Ipv4Addr::LOCALHOST, 20_000 + (spread + taken) % 10_000)))
        .find(|address| TcpListener::bind(address).is_ok())
        .unwrap()
}

/// The program, without any settings from this environment.
fn program(listen: SocketAddr, database: &Path, flags: &[&str]) -> Command {
    command(Path::new(env!("CARGO_BIN_EXE_duality")), listen, database, flags)
}

fn command(program: &Path, listen: SocketAddr, database: &Path, flags: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(["--listen", &listen.to_string(), "--database"]).arg(database).args(flags);
    let files = files_of(database);
    if files != database {
        command.arg("--files").arg(files);
    }
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("DUALITY_")) {
        command.env_remove(name);
    }
    command.env("RUST_LOG", "info").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The program of an example; `None` if it is not built. `cargo test` builds it, `cargo test --test promises` does not.
pub(crate) fn example(name: &str) -> Option<PathBuf> {
    // Tests are in `target/debug/deps`.
    let deps = std::env::current_exe().unwrap();
    let program = deps.parent().unwrap().with_file_name("examples").join(name);
    if !program.exists() {
        not_tested(&format!("the example {name} is"), "it is not built: cargo build --examples");
    }
    program.exists().then_some(program)
}

/// Runs it to completion, and returns the exit code and all output.
pub(crate) fn output_of(database: &Path, flags: &[&str]) -> (i32, String) {
    let output = Process::output(database, flags);
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

impl Process {
    /// Starts it on any free port.
    pub(crate) fn start(database: &Path, flags: &[&str]) -> Self {
        Self::start_on(ANY_PORT, database, flags)
    }

    pub(crate) fn start_on(listen: SocketAddr, database: &Path, flags: &[&str]) -> Self {
        Self::spawn(program(listen, database, flags))
    }

    /// Starts it on any free port, with variables in its environment.
    pub(crate) fn start_in(environment: &[(&str, &str)], database: &Path, flags: &[&str]) -> Self {
        let mut program = program(ANY_PORT, database, flags);
        program.envs(environment.iter().copied());
        Self::spawn(program)
    }

    /// Starts another program that takes the same settings, with variables in its environment.
    pub(crate) fn start_other(program: &Path, environment: &[(&str, &str)], database: &Path) -> Self {
        let mut command = command(program, ANY_PORT, database, &[]);
        command.envs(environment.iter().copied());
        Self::spawn(command)
    }

    /// Starts it with another program in front of it, which gets its command line: `nohup`.
    pub(crate) fn start_by(starter: &[&str], database: &Path, flags: &[&str]) -> Self {
        let program = program(ANY_PORT, database, flags);
        let mut by = Command::new(starter[0]);
        by.args(&starter[1..]).arg(program.get_program()).args(program.get_args());
        for (name, value) in program.get_envs() {
            match value {
                Some(value) => by.env(name, value),
                None => by.env_remove(name),
            };
        }
        by.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self::spawn(by)
    }

    fn spawn(mut program: Command) -> Self {
        let mut child = program.spawn().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (found, finding) = std::sync::mpsc::channel();
        let (errors, lines) = (BufReader::new(child.stderr.take().unwrap()), Arc::clone(&log));
        std::thread::spawn(move || {
            for line in errors.lines().map_while(Result::ok) {
                let address = line.split_once("listening on http").and_then(|(_, url)| url.split_once("://"));
                // A quote ends it in JSON.
                let address = address.and_then(|(_, rest)| rest.trim().split('"').next()).map(str::parse);
                // Whoever gets the address expects its line in the log.
                lines.lock().unwrap().push(line);
                if let Some(address) = address {
                    let _ = found.send(address.unwrap());
                }
            }
        });
        let address = finding.recv_timeout(DEADLINE).unwrap_or_else(|_| panic!("not started: {log:?}"));
        Self { child, address, log }
    }

    /// Runs it where it is expected to fail immediately.
    pub(crate) fn output(database: &Path, flags: &[&str]) -> Output {
        let child = program(ANY_PORT, database, flags).spawn().unwrap();
        child.wait_with_output().unwrap()
    }

    /// The same on an address.
    pub(crate) fn output_on(listen: &str, database: &Path, flags: &[&str]) -> Output {
        let child = program(listen.parse().unwrap(), database, flags).spawn().unwrap();
        child.wait_with_output().unwrap()
    }

    /// The same, with variables in its environment.
    pub(crate) fn output_in(environment: &[(&str, &str)], database: &Path, flags: &[&str]) -> Output {
        let child = program(ANY_PORT, database, flags).envs(environment.iter().copied()).spawn().unwrap();
        child.wait_with_output().unwrap()
    }

    /// Starts a task, and kills it when a condition holds, unless it ends before. Returns whether it was killed.
    pub(crate) fn kill_task(database: &Path, flags: &[&str], mut when: impl FnMut() -> bool) -> bool {
        let mut child = program(ANY_PORT, database, flags).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut status = None;
        eventually("the task ends or is killed", || {
            status = child.try_wait().unwrap();
            status.is_some() || when()
        });
        if status.is_none() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        status.is_none()
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    /// Kills it, like a power failure with a disk that honours flushes.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("the process ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// The number of its open files and sockets.
    pub(crate) fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// How many of its descriptors there are of each kind: sockets, those of the kernel, and files by their path.
    pub(crate) fn descriptors(&self) -> BTreeMap<String, usize> {
        let files = std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap();
        let mut kinds = BTreeMap::new();
        for link in files.filter_map(|file| std::fs::read_link(file.unwrap().path()).ok()) {
            let link = link.to_string_lossy().into_owned();
            // `socket:[4711]`, `pipe:[4711]`, `anon_inode:[eventpoll]`, `/tmp/test.db`, `/tmp/.tmp1 (deleted)`.
            let kind = link.split_once(":[").filter(|(kind, _)| *kind != "anon_inode").map(|(kind, _)| kind.to_owned());
            *kinds.entry(kind.unwrap_or(link)).or_default() += 1;
        }
        kinds
    }

    /// Its resident memory in bytes.
    pub(crate) fn memory(&self) -> i64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<i64>().unwrap() * 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
