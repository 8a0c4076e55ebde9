//! The tasks of the command line.

use std::path::PathBuf;

use clap::Subcommand;
use clap_complete::Shell;

/// A task to run instead of the service.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
#[non_exhaustive]
pub enum Task {
    /// Copy the database at one moment to a file, checked and on disk. A service may be using the database.
    Backup {
        /// The file to create, or `-` for standard output.
        #[arg(value_name = "FILE|-")]
        target: PathBuf,
        /// Replace the file if it exists.
        #[arg(long)]
        force: bool,
    },
    /// Check a copy, and put it in the place of the database, which is kept under a name with the time. The service must
    /// not be running.
    Restore {
        /// The copy, or `-` for standard input. A copy with a write-ahead log beside it is used with that log.
        #[arg(value_name = "FILE|-")]
        source: PathBuf,
        /// Restore it whatever the check finds, as long as it can be read.
        #[arg(long)]
        force: bool,
    },
    /// Copy the database, and bring it in line with this version of the program, as the next start would.
    Migrate {
        /// Only print what there is to do. Changes nothing. Exit code 3 if there is something to do.
        #[arg(long)]
        check: bool,
    },
    /// Check the file, its counters, states, events and projections against each other. A service may be using the
    /// database. Changes nothing. Exit code 1 if anything is wrong.
    Verify,
    /// Make, list or take away the tokens with which clients prove who they are. A running service notices.
    Token {
        /// The task.
        #[command(subcommand)]
        task: TokenTask,
    },
    /// Erase an aggregate with its past: its state, the content of its events, and what projections have of it. Its key is
    /// never used again. The running service does the task; if none is running, it is done on the files.
    Erase {
        /// The collection, such as `carts`.
        collection: String,
        /// The key of the aggregate.
        key: String,
    },
    /// List the collections of the database, or drop one that the program does not register any more.
    Collection {
        /// The task.
        #[command(subcommand)]
        task: CollectionTask,
    },
    /// Begin an epoch in a database on a server. That is needed only if a snapshot of the server's storage was put back while
    /// no service ran: nothing in it shows that. Services that run notice, and go on in the new epoch.
    Epoch {
        /// The task.
        #[command(subcommand)]
        task: EpochTask,
    },
    /// Print the completions of a shell, which know all settings and tasks.
    Completions {
        /// The shell.
        #[arg(value_name = "SHELL")]
        shell: Shell,
    },
    /// Print the manual page, in the format of man.
    Man,
    /// Show or rebuild projections. The running service does the task; if none is running, it is done on the files.
    Projection {
        /// The task.
        #[command(subcommand)]
        task: ProjectionTask,
    },
}

impl Task {
    /// Whether the task depends on settings, and so on the environment.
    pub(in crate::service) fn reads_settings(&self) -> bool {
        !matches!(self, Self::Completions { .. } | Self::Man)
    }
}

/// A task for the collections.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
#[non_exhaustive]
pub enum CollectionTask {
    /// List the name, kind, version and number of aggregates of each collection of the database, and whether the program
    /// registers it. A service may be using the database. Changes nothing.
    List,
    /// Remove a collection from the document, with all of its aggregates, change events and stored answers, and the content of
    /// its domain events. Not for a collection that the program registers. No service may be using a database file.
    Drop {
        /// The name of the collection, such as `carts`.
        name: String,
        /// Keep the domain events as they are: a program that registers the collection again gets its aggregates back.
        #[arg(long)]
        keep_journal: bool,
    },
}

/// A task for the epochs.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
#[non_exhaustive]
pub enum EpochTask {
    /// Begin an epoch after everything that is in the database. Clients that have seen more than that are reset.
    New,
}

/// A task for the tokens, in the file of `--tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
#[non_exhaustive]
pub enum TokenTask {
    /// Make a token, and print it. It is shown only this once: the file has no more of it than its SHA-256.
    New {
        /// Who gets it, as logs and the metadata of events show it.
        name: String,
        /// What its holder may do: `read`, `write`, `operate`, or a part of it: `read:persons`, `write:carts`,
        /// `read:carts/<key>`, `read:reports/<name>`; separate several with commas.
        #[arg(long, value_name = "SCOPE", value_delimiter = ',', required = true)]
        scope: Vec<String>,
        /// When it ends: after a duration such as `90d`, or at a date such as `2027-01-31`, in UTC. It stays by default.
        #[arg(long, value_name = "DURATION|DATE")]
        expires: Option<String>,
    },
    /// List the names, times and scopes of all tokens.
    List,
    /// Take a token away. The streams of its holder end.
    Revoke {
        /// The name of the token.
        name: String,
    },
}

/// A task for the projections.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
#[non_exhaustive]
pub enum ProjectionTask {
    /// List the name, version, state, lag and last error of each projection. Changes nothing.
    List,
    /// Rebuild a projection while its current generation is served. Exit code 0 when the new generation is served.
    Rebuild {
        /// The name of the projection.
        name: String,
    },
    /// Skip the event at which a projection has stopped. The log records this.
    Skip {
        /// The name of the projection.
        name: String,
        /// The position or the revision of the event.
        at: i64,
    },
}
