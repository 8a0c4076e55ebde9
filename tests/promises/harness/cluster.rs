//! A `PostgreSQL` server that a test may stop, start, copy and promote. Unlike the shared one, it flushes what it writes.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout};
use std::sync::Mutex;

use super::data_directory::server_shell;
use super::engine::{PostgresServer, psql};
use super::lasting_address;

/// The servers of a test, in one directory: the first one, and what is copied from it.
pub(crate) struct Cluster {
    /// When its input ends, all servers stop, and their directory is removed.
    _keeper: Child,
    lines: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
    /// Of the first server, and of the second one.
    addresses: [SocketAddr; 2],
}

/// Executes the lines of its input in a directory of its own, and answers each with a line.
const KEEPER: &str = r#"
    set -u
    directory=$(mktemp -d "$PLACE/duality-cluster-XXXXXX")
    cd "$directory"
    while read -r line; do
        if eval "$line" >>output 2>&1 </dev/null; then echo ok; else tail -5 output | tr '\n' ' '; echo; fi
    done
    for data in */postmaster.pid; do pg_ctl -D "${data%/*}" -m immediate stop >/dev/null 2>&1; done
    cd / && rm -rf "$directory"
"#;

/// The options with which a server of the directory starts, on a port.
fn start(data: &str, address: SocketAddr) -> String {
    let port = address.port();
    format!("pg_ctl -D {data} -l {data}.log -w -o '-k . -c listen_addresses=127.0.0.1 -p {port}' start")
}

impl Cluster {
    /// Starts the first server. `None`, and a word about it, if this machine has none.
    pub(crate) fn start() -> Option<Self> {
        if !PostgresServer::is_installed("what a PostgreSQL server does when it ends is") {
            return None;
        }
        let mut keeper = server_shell(KEEPER).spawn().unwrap();
        let (input, output) = (keeper.stdin.take().unwrap(), BufReader::new(keeper.stdout.take().unwrap()));
        let addresses = [lasting_address(), lasting_address()];
        let cluster = Self { _keeper: keeper, lines: Mutex::new((input, output)), addresses };
        cluster.run("cp -Rp \"$DATA\" first");
        cluster.run("echo 'max_connections = 200' >> first/postgresql.conf");
        cluster.run(&start("first", addresses[0]));
        psql(&cluster.url("postgres"), "CREATE DATABASE shop TEMPLATE template0");
        Some(cluster)
    }

    /// Executes a line of the shell in the directory, as the user of the servers.
    #[track_caller]
    pub(crate) fn run(&self, line: &str) {
        let mut lines = self.lines.lock().unwrap();
        let (input, output) = &mut *lines;
        writeln!(input, "{line}").unwrap();
        let mut answer = String::new();
        output.read_line(&mut answer).unwrap();
        assert_eq!(answer, "ok\n", "{line}");
    }

    /// A database of the first server.
    pub(crate) fn url(&self, name: &str) -> String {
        format!("postgres://duality@{}/{name}?sslmode=disable", self.addresses[0])
    }

    /// The same database, on whichever of two servers can be written.
    pub(crate) fn url_of_both(&self, name: &str) -> String {
        let [first, second] = self.addresses;
        format!("postgres://duality@{first},{second}/{name}?sslmode=disable")
    }

    /// Where the first server listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// Executes SQL in a database of the first server.
    pub(crate) fn execute(&self, name: &str, sql: &str) -> String {
        psql(&self.url(name), sql)
    }

    /// Stops the first server as a crash does: without a checkpoint, and without a word to its clients.
    pub(crate) fn stop_at_once(&self) {
        self.run("pg_ctl -D first -m immediate -w stop");
    }

    pub(crate) fn resume(&self) {
        self.run(&start("first", self.addresses[0]));
    }

    /// Copies the first server to a second one, which then has everything that the first one writes.
    pub(crate) fn add_standby(&self) {
        let port = self.addresses[0].port();
        self.run(&format!("pg_basebackup -h 127.0.0.1 -p {port} -U duality -D second -R -X stream -c fast"));
        self.run(&start("second", self.addresses[1]));
    }

    /// From now on, the standby gets nothing of what the first one writes.
    pub(crate) fn part(&self) {
        self.run("sed -i '/^primary_conninfo/d' second/postgresql.auto.conf");
        self.run("pg_ctl -D second -m fast -w stop");
        self.run(&start("second", self.addresses[1]));
    }

    /// The standby becomes a server that can be written, and the first one is gone.
    pub(crate) fn fail_over(&self) {
        self.stop_at_once();
        self.run("pg_ctl -D second -w promote");
    }
}
