//! A database on a server: how to connect to it, and where this process keeps its own files.

pub(super) mod identity;
pub(super) mod start;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use diesel::connection::SimpleConnection as _;
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Bool, Text};

use self::identity::Identity;
use super::database_file::MainConnection;
use super::engine::AnyConnection;
use super::error::{StoreError, cannot_open};
use super::health::Health;
use super::location::resolve;
use super::lock_file::LockFile;

/// A database on a server.
pub(super) struct Server {
    url: String,
    /// The name with which the files of this process begin.
    files: PathBuf,
    /// Keeps another service from using the same files.
    lock: LockFile,
    health: Arc<Health>,
    /// Where the epoch of this process began, once it is known.
    identity: OnceLock<Identity>,
}

/// What a connection is for: its name in `pg_stat_activity`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Write,
    Read,
}

/// How long the server may wait for a client that has begun a transaction, for a lock, and for a statement. A start changes
/// what it needs. Answers of writes are certain only with `synchronous_commit`, which a role may have turned off.
const SESSION: &str = "
    SET idle_in_transaction_session_timeout = '2s';
    SET lock_timeout = '2s';
    SET statement_timeout = '10s';
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') IN ('off', 'local')";

/// All reads of a transaction see the moment of the first one: a revision, and the rows of exactly that revision. A statement
/// may take the time that a whole collection needs, whose rows are fetched one by one.
const READING: &str = "
    SET default_transaction_isolation = 'repeatable read';
    SET default_transaction_read_only = on;
    SET idle_in_transaction_session_timeout = '10s';
    SET statement_timeout = '10min'";

/// Parameters of libpq that a URL need not have: a server that does not answer is given up within seconds.
const PARAMETERS: [(&str, &str); 6] = [
    ("connect_timeout", "5"),
    ("keepalives_idle", "2"),
    ("keepalives_interval", "1"),
    ("keepalives_count", "3"),
    ("tcp_user_timeout", "5000"),
    ("target_session_attrs", "read-write"),
];

impl Server {
    /// A database that is connected to when it is needed.
    ///
    /// # Errors
    /// Another service of this machine uses the same files.
    pub(super) fn new(url: &str, files: &Path, health: &Arc<Health>) -> Result<Self, StoreError> {
        let files = resolve(files)?;
        let lock = LockFile::acquire(&files)?;
        Ok(Self { url: url.to_owned(), files, lock, health: Arc::clone(health), identity: OnceLock::new() })
    }

    /// The URL without user, password and parameters.
    pub(super) fn name(&self) -> PathBuf {
        without_secrets(&self.url).into()
    }

    pub(super) fn files(&self) -> &Path {
        &self.files
    }

    /// Leaves the address of the service in the lock file, for the error of a second process.
    pub(super) fn record_address(&self, address: SocketAddr) {
        self.lock.record_address(address);
    }

    /// Lets another service use the files.
    pub(super) fn release(&self) {
        self.lock.release();
    }

    /// Fails if the record was found to be another one.
    pub(super) fn is_the_same(&self) -> Result<(), StoreError> {
        if self.health.is_replaced() { Err(StoreError::Replaced { path: self.name() }) } else { Ok(()) }
    }

    /// From now on nothing succeeds: the record has another epoch, or is in another place.
    pub(super) fn report_other_history(&self) -> StoreError {
        self.health.replaced(&format!(
            "the record has another epoch, or {} is another database than the one that this process has opened, such as \
             a promoted standby or a restored one. Nothing succeeds until the service has started again: it goes on in \
             the epoch of that database, or begins one",
            self.name().display()
        ));
        StoreError::Replaced { path: self.name() }
    }

    pub(super) fn open_for_reading(&self) -> Result<MainConnection, StoreError> {
        Ok(MainConnection::of_server(self.connect(Purpose::Read)?))
    }

    pub(super) fn open_for_writing(&self) -> Result<MainConnection, StoreError> {
        Ok(MainConnection::of_server(self.connect(Purpose::Write)?))
    }

    /// Notes where the epoch of this process began.
    pub(super) fn set_identity(&self, identity: Identity) {
        // Another one does not get here: it is another history.
        let _ = self.identity.set(identity);
    }

    pub(super) fn connect(&self, purpose: Purpose) -> Result<AnyConnection, StoreError> {
        let mut connection = establish(&self.url, purpose)?;
        if let Some(expected) = self.identity.get()
            && Identity::of(&mut connection)? != *expected
        {
            return Err(self.report_other_history());
        }
        Ok(AnyConnection::Postgres(connection))
    }
}

/// A connection of a task that writes.
pub(super) fn connect_for_writing(url: &str) -> Result<AnyConnection, StoreError> {
    Ok(AnyConnection::Postgres(establish(url, Purpose::Write)?))
}

/// A connection of a task that only reads, as long as it takes.
pub(super) fn connect_for_reading(url: &str) -> Result<AnyConnection, StoreError> {
    let mut connection = establish(url, Purpose::Read)?;
    connection.batch_execute("SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0")?;
    Ok(AnyConnection::Postgres(connection))
}

fn establish(url: &str, purpose: Purpose) -> Result<PgConnection, StoreError> {
    let name = PathBuf::from(without_secrets(url));
    let failed = |error: &dyn std::fmt::Display| StoreError::Unreachable {
        path: name.clone(),
        source: without_url(&error.to_string(), url).into(),
    };
    let complete = with_parameters(url, purpose);
    let mut connection = PgConnection::establish(&complete).map_err(|error| failed(&error))?;
    connection.batch_execute(SESSION).map_err(|error| failed(&error))?;
    if purpose == Purpose::Read {
        connection.batch_execute(READING).map_err(|error| failed(&error))?;
    }
    let usable = diesel::sql_query(USABLE).get_result(&mut connection).map_err(|error| failed(&error))?;
    require_usable(&usable).map_err(|why| cannot_open(&name, why))?;
    Ok(connection)
}

#[derive(QueryableByName)]
struct Usable {
    #[diesel(sql_type = Bool)]
    is_standby: bool,
    #[diesel(sql_type = Text)]
    encoding: String,
}

const USABLE: &str = "SELECT pg_is_in_recovery() AS is_standby, current_setting('server_encoding') AS encoding";

fn require_usable(Usable { is_standby, encoding }: &Usable) -> Result<(), String> {
    if *is_standby {
        return Err("it is a standby; name the primary server".to_owned());
    }
    if encoding != "UTF8" {
        return Err(format!(
            "its encoding is {encoding}; expected UTF8: CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
        ));
    }
    Ok(())
}

/// The URL with the parameters that it lacks.
fn with_parameters(url: &str, purpose: Purpose) -> String {
    let name = match purpose {
        Purpose::Write => "duality%20write",
        Purpose::Read => "duality%20read",
    };
    let mut complete = url.to_owned();
    let mut separator = if url.contains('?') { '&' } else { '?' };
    for (parameter, value) in PARAMETERS.into_iter().chain([("application_name", name)]) {
        if !url.contains(&format!("{parameter}=")) {
            complete.push(separator);
            complete.push_str(parameter);
            complete.push('=');
            complete.push_str(value);
            separator = '&';
        }
    }
    complete
}

/// The URL without user, password and parameters: `postgres://host:5432/shop`.
fn without_secrets(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("postgres", url));
    let rest = rest.split_once('?').map_or(rest, |(place, _)| place);
    let place = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
    format!("{scheme}://{place}")
}

/// A message of libpq, which may repeat the URL.
fn without_url(message: &str, url: &str) -> String {
    message.replace(url, &without_secrets(url)).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_database_has_no_secrets() {
        for (url, expected) in [
            ("postgres://host/shop", "postgres://host/shop"),
            ("postgres://user:secret@host:5433/shop?sslmode=require", "postgres://host:5433/shop"),
            ("postgresql://user:p@ss@a,b/shop", "postgresql://a,b/shop"),
            ("postgres:///shop?host=/run/postgresql&password=secret", "postgres:///shop"),
        ] {
            assert_eq!(without_secrets(url), expected);
        }
    }

    #[test]
    fn a_parameter_of_the_url_is_kept() {
        let complete = with_parameters("postgres://host/shop?connect_timeout=1", Purpose::Read);
        assert!(complete.starts_with("postgres://host/shop?connect_timeout=1&keepalives_idle=2&"), "{complete}");
        assert!(complete.ends_with("&application_name=duality%20read"), "{complete}");
    }
}
