//! The listeners of a service: one for clients, and, if operators have one of their own, that.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::task::Poll;

use actix_web::dev::ServerHandle;
use actix_web::rt;

use crate::delivery::connection_limiter::ConnectionLimiter;
use crate::http::connection::ConnectionLimits;
use crate::http::server::{ServerConfig, serve};
use crate::http::surface::{Operating, Page, Surface};
#[cfg(feature = "tls")]
use crate::service::certificate_watch::CertificateWatch;
use crate::service::descriptors::{Capacity, OPERATORS};
use crate::service::listening::{Reach, Wanted, listen};
use crate::service::running::{Running, StartError};
use crate::service::settings::Settings;
use crate::service::start_report::report;
use crate::service::waiting_room::{Door, Manner};

/// The addresses that a service has, before it serves.
pub(super) struct Listeners {
    clients: TcpListener,
    operators: Option<TcpListener>,
}

/// Whether the connections of a listener are encrypted if there is a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encryption {
    IfPossible,
    /// Only this machine sees the bytes.
    NotNeeded,
}

/// A listener that is served.
struct Served {
    server: ServerHandle,
    address: SocketAddr,
}

impl Listeners {
    /// # Errors
    /// An address cannot be had, or others could reach it who must not.
    pub(super) fn bind(settings: &Settings) -> Result<Self, StartError> {
        let is_decided = settings.tokens.is_some() || settings.insecure;
        let reach = if is_decided { Reach::Everybody } else { Reach::ThisMachine };
        let clients = listen(Wanted { setting: "--listen", address: &settings.listen }, reach)?;
        let operators = settings.operate_on.as_ref();
        let operators =
            operators.map(|address| listen(Wanted { setting: "--operate-on", address }, reach)).transpose()?;
        Ok(Self { clients, operators })
    }

    /// The same listeners for another life: what connects in between waits.
    ///
    /// # Errors
    /// The process has no file descriptors left.
    pub(super) fn again(&self) -> Result<Self, StartError> {
        let again = |listener: &TcpListener| {
            let address = || listener.local_addr().map_or_else(|_| "its address".to_owned(), |name| name.to_string());
            listener.try_clone().map_err(|source| StartError::Listen { address: address(), source })
        };
        Ok(Self { clients: again(&self.clients)?, operators: self.operators.as_ref().map(again).transpose()? })
    }

    /// The listeners for those who connect while a start takes long.
    ///
    /// # Errors
    /// The process has no file descriptors left.
    pub(super) fn doors(&self, settings: &Settings) -> Result<Vec<Door>, StartError> {
        let Self { clients, operators } = self.again()?;
        let door = |listener: TcpListener, encryption| {
            let is_encrypted = scheme(settings, encryption) == "https";
            Door { listener, manner: if is_encrypted { Manner::Close } else { Manner::Answer } }
        };
        let operators = operators.map(|listener| {
            let encryption = for_listener(&listener);
            door(listener, encryption)
        });
        Ok(std::iter::once(door(clients, Encryption::IfPossible)).chain(operators).collect())
    }

    /// Serves, and returns when all threads run. Operators have a thread and connections of their own, so that they are
    /// answered however many clients there are.
    ///
    /// # Errors
    /// The threads cannot be started.
    pub(super) async fn serve(self, running: &mut Running, capacity: Capacity) -> Result<(), StartError> {
        let settings = running.settings.clone();
        let failed = |address: &str, source| StartError::Listen { address: address.to_owned(), source };
        let operating = if self.operators.is_some() { Operating::Elsewhere } else { Operating::Here };
        let page = if settings.page { Page::Shown } else { Page::Absent };
        let config = for_clients(running, Surface::new(operating, page), capacity.connections);
        let clients = start(self.clients, config, running, Encryption::IfPossible).await;
        let clients = clients.map_err(|error| failed(&settings.listen, error))?;
        running.servers.push(clients.server);
        running.addresses.push(clients.address);
        running.database.record_address(clients.address);
        if let (Some(listener), Some(name)) = (self.operators, &settings.operate_on) {
            let config = for_operators(running);
            let encryption = for_listener(&listener);
            let operators = start(listener, config, running, encryption).await.map_err(|error| failed(name, error))?;
            running.servers.push(operators.server);
            running.addresses.push(operators.address);
            log::info!("operators are served on {}://{}", scheme(&settings, encryption), operators.address);
        }
        report(&running.shared.registry, &settings, clients.address);
        log::info!("listening on {}://{}", scheme(&settings, Encryption::IfPossible), clients.address);
        Ok(())
    }
}

fn for_clients(running: &Running, surface: Surface, connections: usize) -> ServerConfig {
    let settings = &running.settings;
    ServerConfig {
        surface,
        workers: settings.worker_threads(),
        thread_name: "duality-work",
        connections: ConnectionLimits {
            max: connections,
            by_address: Arc::clone(&running.shared.connection_limiter),
            #[cfg(feature = "direct-write")]
            memory: Arc::clone(&running.shared.bodies.memory),
            peer_timeout: settings.peer_timeout,
            keep_alive: settings.keep_alive,
            #[cfg(feature = "tls")]
            tls: None,
        },
        cors_origins: settings.cors_origin.clone(),
        heartbeat: settings.heartbeat,
        relay: running.relay.clone(),
        shared: running.shared.clone(),
        hubs: Arc::clone(&running.hubs),
    }
}

/// Everything for operators, on one thread; no address of theirs has fewer connections than others.
fn for_operators(running: &Running) -> ServerConfig {
    let config = for_clients(running, Surface::new(Operating::Here, Page::Shown), OPERATORS);
    let by_address = ConnectionLimiter::new(usize::MAX);
    let connections = ConnectionLimits { by_address, ..config.connections };
    ServerConfig { workers: 1, thread_name: "duality-operate", connections, ..config }
}

/// Starts a server, and returns when its threads run.
async fn start(
    listener: TcpListener,
    mut config: ServerConfig,
    running: &Running,
    encryption: Encryption,
) -> io::Result<Served> {
    let address = listener.local_addr()?;
    encrypt(&mut config, running, encryption)?;
    let server = serve(listener, config)?;
    let (handle, mut server) = (server.handle(), Box::pin(server));
    // The first poll starts all threads, and waits until they serve. Later ones only wait for the end.
    if let Poll::Ready(outcome) = std::future::poll_fn(|context| Poll::Ready(server.as_mut().poll(context))).await {
        outcome?;
    }
    rt::spawn(server);
    Ok(Served { server: handle, address })
}

/// Has the connections of a server begin with a handshake, if there is a certificate.
#[cfg(feature = "tls")]
fn encrypt(config: &mut ServerConfig, running: &Running, encryption: Encryption) -> io::Result<()> {
    let certificate = running.certificate.as_ref().filter(|_| encryption == Encryption::IfPossible);
    config.connections.tls = certificate.map(CertificateWatch::acceptor).transpose()?;
    Ok(())
}

#[cfg(not(feature = "tls"))]
#[expect(clippy::unnecessary_wraps, reason = "a program with TLS can fail here")]
fn encrypt(_: &mut ServerConfig, _: &Running, _: Encryption) -> io::Result<()> {
    Ok(())
}

/// Operators on this machine need no encryption.
fn for_listener(operators: &TcpListener) -> Encryption {
    let is_local = operators.local_addr().is_ok_and(|address| address.ip().to_canonical().is_loopback());
    if is_local { Encryption::NotNeeded } else { Encryption::IfPossible }
}

fn scheme(settings: &Settings, encryption: Encryption) -> &'static str {
    let is_encrypted = settings.tls_cert.is_some() && encryption == Encryption::IfPossible;
    if is_encrypted { "https" } else { "http" }
}
