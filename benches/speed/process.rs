//! Processes to be measured: the release binary of the service, and the programs that are its limits.

use std::fs::read_to_string;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A process that listens; it is killed when this is dropped.
pub struct Process {
    child: Child,
    pub address: SocketAddr,
}

impl Process {
    /// Starts the service on a database file, with these flags more.
    pub fn service(binary: &Path, database: &Path, flags: &[&str]) -> Self {
        let mut command = Command::new(binary);
        command.args(["--listen", "127.0.0.1:0", "--max-sessions-per-address", "20000", "--database"]);
        command.arg(database).args(flags).env("RUST_LOG", "duality=info");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let address = said(child.stderr.take().unwrap(), "listening on http://");
        Self { child, address }
    }

    /// Starts this program again, as a limit.
    pub fn limit(arguments: &[&str]) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg("--as-limit").args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let address = said(child.stdout.take().unwrap(), "listening on ");
        Self { child, address }
    }

    /// Starts a loop that keeps a processor from sleeping, and gives way to everything else.
    pub fn spinner() -> Self {
        let mut command = Command::new("chrt");
        command.args(["--idle", "0"]).arg(std::env::current_exe().unwrap()).args(["--as-limit", "spin"]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Self { child: command.spawn().unwrap(), address: ([127, 0, 0, 1], 0).into() }
    }

    /// Anonymous memory that is resident, in bytes: all but the binary and mapped files.
    pub fn memory(&self) -> f64 {
        let status = read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() * 1024.0
    }

    /// All memory that is resident, in bytes.
    pub fn resident(&self) -> f64 {
        let status = read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() * 1024.0
    }

    /// Processor time since its start, in seconds; the kernel counts hundredths.
    pub fn cpu(&self) -> f64 {
        let stat = read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Waits for the line that has the address; what comes after it is not kept, but for what goes wrong.
fn said(output: impl std::io::Read + Send + 'static, before: &str) -> SocketAddr {
    let mut lines = BufReader::new(output).lines();
    let address = lines.by_ref().map_while(Result::ok).find_map(|line| {
        let (_, address) = line.split_once(before)?;
        address.trim().parse().ok()
    });
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok).filter(|line| line.contains("ERROR") || line.contains("panicked")) {
            eprintln!("{line}");
        }
    });
    address.expect("a process that is measured did not start")
}

/// Builds the release binary, as a user would, and says where it is.
pub fn release_binary() -> PathBuf {
    let built = Command::new(env!("CARGO"))
        .args(["build", "--release", "--quiet", "--bin", "duality", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .status();
    assert!(built.unwrap().success(), "the release binary was not built");
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("release/duality")
}
