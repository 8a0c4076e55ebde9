//! The measured processes: the release binary of the service, and the limit programs.

use std::fs::read_to_string;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A listening process, which is killed on drop.
pub struct Process {
    pub child: Child,
    pub address: SocketAddr,
}

impl Process {
    /// Starts the service on a database file with additional flags.
    pub fn service(binary: &Path, database: &Path, flags: &[&str]) -> Self {
        Self::service_at("127.0.0.1:0", binary, database, flags)
    }

    /// Stops the service as an operator does, and starts it again at the same address.
    pub fn restart(mut self, binary: &Path, database: &Path, flags: &[&str]) -> Self {
        let stopped = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        assert!(stopped.unwrap().success() && self.child.wait().unwrap().success(), "the service did not stop");
        Self::service_at(&self.address.to_string(), binary, database, flags)
    }

    fn service_at(address: &str, binary: &Path, database: &Path, flags: &[&str]) -> Self {
        let mut command = Command::new(binary);
        command.args(["--listen", address, "--max-sessions-per-address", "20000", "--database"]);
        command.arg(database).args(flags).env("RUST_LOG", "duality=info");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let address = wait_for_address(child.stderr.take().unwrap(), "listening on http://");
        Self { child, address }
    }

    /// Starts this program again as a limit program.
    pub fn limit(arguments: &[&str]) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg("--as-limit").args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let address = wait_for_address(child.stdout.take().unwrap(), "listening on ");
        Self { child, address }
    }

    /// Starts a loop that keeps a processor awake, and yields to everything else.
    pub fn spinner() -> Self {
        let mut command = Command::new("chrt");
        command.args(["--idle", "0"]).arg(std::env::current_exe().unwrap()).args(["--as-limit", "spin"]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Self { child: command.spawn().unwrap(), address: ([127, 0, 0, 1], 0).into() }
    }

    /// The resident anonymous memory in bytes: everything but the binary and mapped files.
    pub fn memory(&self) -> f64 {
        let status = read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() * 1024.0
    }

    /// The resident memory in bytes.
    pub fn resident(&self) -> f64 {
        let status = read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() * 1024.0
    }

    /// The processor time of its threads since the start, in seconds; the kernel counts in nanoseconds.
    pub fn exact_cpu(&self) -> f64 {
        self.exact_cpu_of(|_| true)
    }

    /// The same, of the threads with such a name.
    pub fn exact_cpu_of(&self, is_one: impl Fn(&str) -> bool) -> f64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let nanoseconds = tasks.map(|task| {
            let task = task.unwrap().path();
            if !is_one(&read_to_string(task.join("comm")).unwrap_or_default()) {
                return 0.0;
            }
            let text = read_to_string(task.join("schedstat")).unwrap_or_default();
            text.split_whitespace().next().map_or(0.0, |time| time.parse().unwrap())
        });
        nanoseconds.sum::<f64>() / 1e9
    }

    /// How often its threads gave up a processor since the start, or lost it.
    pub fn switches(&self) -> f64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let of_task = tasks.map(|task| {
            let text = read_to_string(task.unwrap().path().join("status")).unwrap_or_default();
            let lines = text.lines().filter(|line| line.contains("ctxt_switches:"));
            lines.map(|line| line.split_whitespace().last().unwrap().parse::<f64>().unwrap()).sum::<f64>()
        });
        of_task.sum()
    }

    /// The processor time since the start, in seconds; the kernel counts in hundredths.
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

/// Waits for the line with the address. Of the later lines, only errors are printed.
fn wait_for_address(output: impl std::io::Read + Send + 'static, before: &str) -> SocketAddr {
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
    address.expect("a measured process did not start")
}

/// Builds the release binary as a user would, and returns its path.
pub fn release_binary() -> PathBuf {
    release_binary_with(&[])
}

/// The same, with additional arguments for the build. There is one binary at a time.
pub fn release_binary_with(arguments: &[&str]) -> PathBuf {
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--release", "--quiet", "--bin", "duality", "--manifest-path"]);
    build.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).args(arguments);
    // What cargo sets for a benchmark. A dependency looks at some of it, and would be built again each time, with all that needs it.
    for (name, _) in
        std::env::vars().filter(|(name, _)| ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|of| name.starts_with(of)))
    {
        build.env_remove(name);
    }
    assert!(build.status().unwrap().success(), "the release binary was not built");
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("release/duality")
}
