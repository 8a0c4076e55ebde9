//! The database engine that keeps the record of a test: SQLite, or a `PostgreSQL` server that this process starts for itself.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, Mutex};

use super::data_directory::{self, first_line, server_shell};

/// Whether `DUALITY_TEST_ENGINE=postgres`: then every database that a test does not name is on a server.
pub(crate) fn is_postgres() -> bool {
    std::env::var("DUALITY_TEST_ENGINE").is_ok_and(|engine| engine == "postgres")
}

/// A database of its own for a test, which does not exist yet: a file in a directory, or an empty one on the server.
pub(crate) fn new_database(directory: &Path) -> PathBuf {
    let file = directory.join("test.db");
    if !is_postgres() {
        return file;
    }
    let over = databases_of_the_past();
    let database = PathBuf::from(server().replace_databases(&over, "template0"));
    FILES.lock().unwrap().insert(database.clone(), file);
    database
}

/// The databases on the server of this process whose tests have ended: the directories of their files are gone.
fn databases_of_the_past() -> Vec<PathBuf> {
    let mut files = FILES.lock().unwrap();
    let is_over = |file: &Path| file.parent().is_some_and(|directory| !directory.exists());
    files.extract_if(|_, file| is_over(file)).map(|(database, _)| database).collect()
}

/// For each database on the server of this process, the name with which the files of its service begin.
static FILES: LazyLock<Mutex<HashMap<PathBuf, PathBuf>>> = LazyLock::new(Mutex::default);

/// A copy of a database that nobody uses: a file with this name, or another database on the server with the same files
/// beside it.
pub(crate) fn copy_of(database: &Path, copy: &Path) -> PathBuf {
    if !is_postgres() {
        std::fs::copy(database, copy).unwrap();
        return copy.to_owned();
    }
    let copy = PathBuf::from(server().new_database_like(name_of(database)));
    let files = files_of(database);
    FILES.lock().unwrap().insert(copy.clone(), files);
    copy
}

/// The name of a database on the server of this process.
fn name_of(url: &Path) -> &str {
    url.to_str().unwrap().trim_start_matches("postgres:///").split('?').next().unwrap()
}

/// The name with which the files of a service begin: that of its database file, or its `--files`.
pub(crate) fn files_of(database: &Path) -> PathBuf {
    FILES.lock().unwrap().get(database).map_or_else(|| database.to_owned(), PathBuf::clone)
}

/// The server of this process, whatever keeps the record of other tests. `None`, and a word about it, if this machine has
/// none.
pub(crate) fn shared_server() -> Option<&'static PostgresServer> {
    PostgresServer::is_installed("services that share a PostgreSQL database are").then(server)
}

/// The server of this process.
fn server() -> &'static PostgresServer {
    static SERVER: LazyLock<PostgresServer> = LazyLock::new(|| PostgresServer::start(&["-c", "fsync=off"]));
    &SERVER
}

/// A private `PostgreSQL` server, with a directory of its own, and reached only over a socket in there.
pub(crate) struct PostgresServer {
    /// When it ends, or the pipe to it, the server stops and its directory is removed.
    _keeper: Child,
    directory: PathBuf,
    databases: AtomicU32,
}

/// Runs the server until its input ends.
const KEEPER: &str = r#"
    set -eu
    directory=$(mktemp -d "$PLACE/duality-pg-XXXXXX")
    cp -Rp "$DATA" "$directory/data"
    postgres -D "$directory/data" -k "$directory" -c listen_addresses= -c max_connections=1000 \
        -c shared_buffers=64MB -c max_wal_size=256MB "$@" >>"$directory/log" 2>&1 </dev/null &
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

impl PostgresServer {
    /// Whether this machine has one; says what is not tested if not.
    #[track_caller]
    pub(crate) fn is_installed(what: &str) -> bool {
        let is_installed = data_directory::is_installed();
        if !is_installed {
            super::not_tested(what, "PostgreSQL is not installed");
        }
        is_installed
    }

    /// Starts a server with these options, or says that a test is not run without.
    #[track_caller]
    pub(crate) fn start_for(what: &str, options: &[&str]) -> Option<Self> {
        Self::is_installed(what).then(|| Self::start(options))
    }

    /// What the server has logged so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("log")).unwrap()
    }

    /// Starts a server with these options.
    pub(crate) fn start(options: &[&str]) -> Self {
        let mut keeper = server_shell(KEEPER).args(options).spawn().unwrap();
        let directory = first_line(&mut keeper);
        assert!(!directory.is_empty(), "PostgreSQL does not start; its message is above");
        Self { _keeper: keeper, directory: directory.into(), databases: AtomicU32::new(0) }
    }

    /// An empty database: its URL.
    pub(crate) fn new_database(&self) -> String {
        self.new_database_like("template0")
    }

    /// A copy of a database to which nobody is connected: its URL.
    fn new_database_like(&self, template: &str) -> String {
        self.replace_databases(&[], template)
    }

    /// The same, after these were removed: all those of a run would take gigabytes.
    fn replace_databases(&self, old: &[PathBuf], template: &str) -> String {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let drops = old.iter().map(|database| format!("DROP DATABASE {} WITH (FORCE)", name_of(database)));
        let create = format!("CREATE DATABASE {name} TEMPLATE {template}");
        psql_each(&self.url("postgres"), &drops.chain([create]).collect::<Vec<_>>());
        self.url(&name)
    }

    fn url(&self, name: &str) -> String {
        format!("postgres:///{name}?host={}&user=duality", self.directory.display())
    }
}

/// Executes SQL in a database, and returns what `psql` prints: a line for each row, with the values alone.
pub(crate) fn psql(url: &str, sql: &str) -> String {
    psql_each(url, &[sql.to_owned()])
}

/// The same of several statements, each in a transaction of its own.
fn psql_each(url: &str, statements: &[String]) -> String {
    let commands = statements.iter().flat_map(|sql| ["-c", sql]);
    let output = Command::new(&*PSQL).args([url, "-qAt"]).args(commands).output().unwrap();
    assert!(output.status.success(), "{statements:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The program itself: what some distributions have in its place is a script, which takes three times as long to start.
static PSQL: LazyLock<PathBuf> = LazyLock::new(|| {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let programs = versions.map(|version| version.path().join("bin/psql")).filter(|program| program.exists());
    programs.max().unwrap_or_else(|| "psql".into())
});
