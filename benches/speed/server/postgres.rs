//! A private `PostgreSQL` server with its usual settings, so that what it has committed is on disk.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// Runs a server until its input ends. The user must not be root. The directory is on a disk, and its path is short: that
/// of a socket may have 107 bytes.
const KEEPER: &str = r#"
    set -eu
    bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -1)
    PATH=${bin:+$bin:}$PATH
    command -v initdb >/dev/null || exit 0
    directory=$(mktemp -d /var/tmp/duality-speed-XXXXXX)
    initdb --pgdata="$directory/data" --username=duality --auth=trust --encoding=UTF8 --locale=C >"$directory/log"
    postgres -D "$directory/data" -k "$directory" -c listen_addresses= >>"$directory/log" 2>&1 </dev/null &
    server=$!
    until psql -h "$directory" -U duality -d postgres -qAtc 'SELECT 1' >/dev/null 2>&1; do
        kill -0 $server || { cat "$directory/log" >&2; exit 1; }
        sleep 0.05
    done
    echo "$directory"
    cat >/dev/null || true
    kill -QUIT $server
    wait $server || true
    rm -rf "$directory"
"#;

/// A server with a directory of its own, which is reached only over a socket in there.
pub struct Postgres {
    /// When it ends, or the pipe to it, the server stops and its directory is removed.
    _keeper: Child,
    directory: PathBuf,
    databases: AtomicU32,
}

impl Postgres {
    /// `None` if this machine has none.
    pub fn start() -> Option<Self> {
        let is_root = Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
        let as_root: &[&str] = if is_root { &["runuser", "-u", "postgres", "--"] } else { &[] };
        let arguments = [as_root, &["sh", "-c", KEEPER]].concat();
        let mut command = Command::new(arguments[0]);
        let command = command.args(&arguments[1..]).current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut keeper = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(keeper.stdout.take().unwrap()).read_line(&mut line).unwrap();
        if line.is_empty() {
            keeper.wait().unwrap();
            eprintln!("PostgreSQL is not installed, or does not start: the record on a server is not measured");
            return None;
        }
        Some(Self { _keeper: keeper, directory: line.trim().into(), databases: AtomicU32::new(0) })
    }

    /// The name of a new and empty database.
    pub fn create(&self) -> String {
        let name = format!("speed_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let create = format!("CREATE DATABASE {name} TEMPLATE template0");
        assert!(Command::new("psql").args([&self.near("postgres"), "-qc", &create]).status().unwrap().success());
        name
    }

    /// The URL of a database, over the socket.
    pub fn near(&self, name: &str) -> String {
        format!("postgres:///{name}?host={}&user=duality", self.directory.display())
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.join(".s.PGSQL.5432")
    }
}
