//! The HTTP server: its threads, what each of them has for itself, and how its connections are set up.

use std::cell::RefCell;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix::{Actor as _, Addr};
use actix_web::dev::Server;
use actix_web::middleware::Condition;
use actix_web::{App, web};
use actix_web_lab::extract::LocalData;
use actix_web_lab::middleware::map_response;

use super::connection::ConnectionLimits;
#[cfg(not(feature = "direct-write"))]
use super::connection::{DISCONNECT_TIMEOUT, STOP_TIMEOUT, WRITE_BUFFER, set_up};
use super::cors::{complete, cors};
#[cfg(not(feature = "direct-write"))]
use super::last_request::LastRequest;
use super::routes::routes;
use super::shared::Shared;
use super::surface::Surface;
use crate::delivery::hub::{Hub, LiveSubscribers};
use crate::delivery::relay::Relay;
use crate::threads::name_thread;
use crate::write::aggregator::CommandReplies;

/// What a server works with.
pub(crate) struct ServerConfig {
    /// What it has.
    pub(crate) surface: Surface,
    /// The number of threads, and what their names begin with.
    pub(crate) workers: usize,
    pub(crate) thread_name: &'static str,
    pub(crate) connections: ConnectionLimits,
    pub(crate) cors_origins: Vec<String>,
    pub(crate) heartbeat: Duration,
    pub(crate) relay: Addr<Relay>,
    pub(crate) shared: web::Data<Shared>,
    /// Where each worker thread adds its hub.
    pub(crate) hubs: Hubs,
}

/// The hubs of the worker threads.
pub(crate) type Hubs = Arc<Mutex<Vec<Addr<Hub>>>>;

/// Serves HTTP on a listener. Each worker thread has a hub, live subscribers and a queue of command replies of its own.
pub(crate) fn serve(listener: TcpListener, config: ServerConfig) -> std::io::Result<Server> {
    let ServerConfig { surface, workers, thread_name, connections, cors_origins, heartbeat, relay, shared, hubs } =
        config;
    let surface = web::Data::new(surface);
    let started = Arc::new(AtomicUsize::new(0));
    let application = move || {
        name_thread(&format!("{thread_name}-{}", started.fetch_add(1, Ordering::Relaxed)));
        let subscribers = Rc::new(RefCell::new(LiveSubscribers::new(shared.epoch().clone())));
        let hub = Hub {
            subscribers: Rc::clone(&subscribers),
            relay: relay.clone(),
            heartbeat,
            reach: Arc::clone(&shared.reach),
            handout_time: Arc::default(),
        };
        hubs.lock().expect("nobody panics while pushing to a list").push(hub.start());
        App::new()
            .wrap(Condition::new(!cors_origins.is_empty(), cors(&cors_origins)))
            .wrap(Condition::new(!cors_origins.is_empty(), map_response(complete)))
            .app_data(shared.clone())
            .app_data(surface.clone())
            .app_data(subscribers)
            .app_data(LocalData::new(CommandReplies::here()))
            .configure(|config| routes(config, &shared, &surface))
    };
    #[cfg(feature = "direct-write")]
    let server = super::direct_server::serve(listener, workers, connections, application)?;
    #[cfg(not(feature = "direct-write"))]
    let server = actix_web::HttpServer::new(application)
        .workers(workers)
        .max_connections(connections.per_worker(workers))
        .disable_signals()
        .shutdown_timeout(STOP_TIMEOUT)
        .keep_alive(connections.keep_alive)
        .client_disconnect_timeout(DISCONNECT_TIMEOUT)
        .h1_write_buffer_size(WRITE_BUFFER)
        // A client that closes its side of a quiet stream has disconnected.
        .h1_allow_half_closed(false)
        .on_connect(move |connection, extensions| {
            extensions.insert(LastRequest::default());
            if let Some(stream) = connection.downcast_ref::<actix_web::rt::net::TcpStream>() {
                set_up(stream, connections.peer_timeout);
                connections.admit(stream, extensions);
            }
        })
        .listen(listener)?
        .run();
    Ok(server)
}
