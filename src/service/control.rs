//! The control socket: how the command line reaches the service that uses a database.
//!
//! It is a Unix socket next to the database file, which only the user of the service can open. A request and its
//! response are one line of JSON each.

use std::fs::{File, Permissions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use actix::ArbiterHandle;
use actix_web::{rt, web};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

use crate::domain::metadata::Metadata;
use crate::http::erasure::Wanted;
use crate::http::problem::Problem;
use crate::http::shared::Shared;
use crate::publish::status::Status;
use crate::storage::database::{Database, with_suffix};

/// A request of the command line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum ControlRequest {
    /// The status of all projections and of what is published to message brokers, as an array.
    List,
    /// The status of one projection.
    Status { name: String },
    /// Starts to rebuild a projection. The response is its status.
    Rebuild { name: String },
    /// Erases an aggregate. The response comes when nothing is left of it, or says what may still have something.
    Erase { collection: String, key: String },
    /// Skips the event at which a projection has stopped. The response is its status.
    Skip { name: String, at: i64 },
}

/// A JSON value, or a message for the operator.
type ControlResponse = Result<Value, String>;

/// The socket of a running service.
pub(super) struct ControlSocket {
    path: PathBuf,
}

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 16;

/// The maximum length of a request in bytes.
const MAX_REQUEST: u64 = 64 * 1024;

impl ControlSocket {
    /// Creates the socket, and serves it on a thread of the service. A service without a control socket is better than
    /// none, so an error is only logged.
    pub(super) fn open(database: &Database, shared: web::Data<Shared>, thread: &ArbiterHandle) -> Option<Self> {
        if database.is_private() {
            return None;
        }
        let path = socket_path(database.path());
        match listen(&path) {
            Ok(listener) => {
                thread.spawn(serve(listener, shared));
                Some(Self { path })
            }
            Err(error) => {
                log::warn!("the command line cannot reach this service: {}: {error}", path.display());
                None
            }
        }
    }

    /// Removes the socket. It is served until its thread stops.
    pub(super) fn close(self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            log::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// `duality.db` → `duality.db.sock`
fn socket_path(database: &Path) -> PathBuf {
    with_suffix(database, ".sock")
}

fn listen(path: &Path) -> io::Result<StdListener> {
    // A killed service leaves its socket behind. This process has locked the database, so no service uses it.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(ShortPath::of(path)?.as_path())?)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    // Connections are possible only from here on, when nobody else can open the socket any more.
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(OwnedFd::from(socket).into())
}

async fn serve(listener: StdListener, shared: web::Data<Shared>) {
    let listener = match UnixListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return log::warn!("cannot serve the control socket: {error}"),
    };
    loop {
        match listener.accept().await {
            Ok((connection, _)) => {
                rt::spawn(converse(connection, shared.clone()));
            }
            Err(error) => {
                log::warn!("cannot accept a connection to the control socket: {error}");
                // There may be no free file descriptors at the moment.
                rt::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// Answers the requests of one connection. An error means that the client is gone.
async fn converse(connection: UnixStream, shared: web::Data<Shared>) -> io::Result<()> {
    let (reader, mut writer) = connection.into_split();
    let mut reader = tokio::io::BufReader::new(reader);
    loop {
        let mut line = String::new();
        if (&mut reader).take(MAX_REQUEST).read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let response = match serde_json::from_str(&line) {
            Ok(request) => respond(request, &shared).await,
            Err(error) => Err(format!("unknown request: {error}")),
        };
        let response = serde_json::to_string(&response)? + "\n";
        writer.write_all(response.as_bytes()).await?;
    }
}

async fn respond(request: ControlRequest, shared: &Shared) -> ControlResponse {
    let projections = &shared.projections;
    let named = |name: &str| {
        projections.get(name).ok_or_else(|| {
            let known: Vec<_> = projections.running.iter().map(|projection| projection.name).collect();
            format!("there is no projection {name:?}; expected one of {}", known.join(", "))
        })
    };
    match request {
        ControlRequest::List => {
            let outputs = shared.outputs.iter().map(Status::to_json);
            Ok(projections.to_json().into_iter().chain(outputs).collect())
        }
        ControlRequest::Status { name } => Ok(projections.status_json(named(&name)?)),
        ControlRequest::Rebuild { name } => {
            projections.rebuild(named(&name)?, &shared.aggregator).await.map_err(|error| error.to_string())
        }
        ControlRequest::Erase { collection, key } => erase(shared, &collection, &key).await,
        ControlRequest::Skip { name, at } => {
            let projection = named(&name)?;
            projection.skip(at).await.map_err(|error| error.to_string())?;
            Ok(projections.status_json(projection))
        }
    }
}

/// How long the command line waits for the database and for the projections, which may have to be rebuilt.
const PATIENCE: Duration = Duration::from_secs(24 * 60 * 60);

async fn erase(shared: &Shared, collection: &str, key: &str) -> ControlResponse {
    let wanted = Wanted::new(shared, collection, key).map_err(|invalid| invalid.to_string())?;
    let erased = wanted.erase(shared, Metadata::of_service(), PATIENCE).await;
    let path = format!("/{collection}/{key}");
    Ok(erased.map_err(|error| Problem::of_command(error, &path).to_string())?.to_json())
}

/// A connection of the command line.
pub(super) struct ControlClient {
    connection: BufReader<StdStream>,
}

/// Why a request has no result.
#[derive(Debug, thiserror::Error)]
pub(super) enum ControlError {
    #[error("cannot talk to the running service")]
    Io(#[from] io::Error),
    /// The connection ended before the response did.
    #[error("the service stopped before it answered")]
    Closed,
    #[error("cannot read the response of the service")]
    Json(#[from] serde_json::Error),
    /// The message of the service.
    #[error("{0}")]
    Refused(String),
}

impl ControlClient {
    /// Connects to the service that uses a database.
    pub(super) fn connect(database: &Path) -> io::Result<Self> {
        let connection = StdStream::connect(ShortPath::of(&socket_path(database))?.as_path())?;
        Ok(Self { connection: BufReader::new(connection) })
    }

    pub(super) fn send(&mut self, request: &ControlRequest) -> Result<Value, ControlError> {
        let request = serde_json::to_string(request)? + "\n";
        self.connection.get_mut().write_all(request.as_bytes())?;
        let mut line = String::new();
        if self.connection.read_line(&mut line)? == 0 {
            return Err(ControlError::Closed);
        }
        serde_json::from_str::<ControlResponse>(&line)?.map_err(ControlError::Refused)
    }
}

/// The maximum length of the address of a Unix socket: 107 bytes on Linux, 103 on macOS.
const MAX_ADDRESS: usize = 103;

/// Another path to a socket whose own path is too long for an address.
struct ShortPath {
    path: PathBuf,
    /// Keeps the descriptor open that the path contains.
    _directory: Option<File>,
}

impl ShortPath {
    fn of(path: &Path) -> io::Result<Self> {
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        if path.as_os_str().len() <= MAX_ADDRESS {
            return Ok(Self { path: path.to_owned(), _directory: None });
        }
        let directory = File::open(directory)?;
        let path = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
        Ok(Self { path, _directory: Some(directory) })
    }

    fn as_path(&self) -> &Path {
        &self.path
    }
}
