//! The engines that can keep the record: SQLite in a file, or `PostgreSQL` on a server.
//!
//! Most SQL is written once, in Diesel's language, for a connection to either. What every command and every read needs runs
//! on the connection of its engine, see [`on`]: the common one builds the text of a statement each time.

use diesel::sqlite::SqliteConnection;

/// A connection to the record.
#[derive(diesel::MultiConnection)]
pub(crate) enum AnyConnection {
    Sqlite(SqliteConnection),
    #[cfg(feature = "postgres")]
    Postgres(diesel::pg::PgConnection),
}

impl AnyConnection {
    /// The connection to a file, if it is one.
    pub(crate) fn if_file(&mut self) -> Option<&mut SqliteConnection> {
        match self {
            Self::Sqlite(connection) => Some(connection),
            #[cfg(feature = "postgres")]
            Self::Postgres(_) => None,
        }
    }

    /// The connection to a file, for what only SQLite has.
    pub(crate) fn file(&mut self) -> &mut SqliteConnection {
        match self {
            Self::Sqlite(connection) => connection,
            #[cfg(feature = "postgres")]
            Self::Postgres(_) => unreachable!("what only a file has is asked of a file"),
        }
    }
}

/// Runs an expression on the connection of the engine itself, with what Diesel knows about that one. The second form also
/// names the mode in which that engine loads rows one by one.
macro_rules! on {
    ($connection:expr, |$engine:ident| $work:expr) => {
        match $connection {
            $crate::storage::engine::AnyConnection::Sqlite($engine) => $work,
            #[cfg(feature = "postgres")]
            $crate::storage::engine::AnyConnection::Postgres($engine) => $work,
        }
    };
    ($connection:expr, |$engine:ident, $one_by_one:ident| $work:expr) => {
        match $connection {
            $crate::storage::engine::AnyConnection::Sqlite($engine) => {
                type $one_by_one = diesel::connection::DefaultLoadingMode;
                $work
            }
            #[cfg(feature = "postgres")]
            $crate::storage::engine::AnyConnection::Postgres($engine) => {
                type $one_by_one = diesel::pg::PgRowByRowLoadingMode;
                $work
            }
        }
    };
}

pub(super) use on;
