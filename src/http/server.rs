//! The HTTP server: as the framework's own would be, but that hubs may write to its connections.

use std::fmt;
use std::net::TcpListener;
use std::rc::Rc;
use std::time::Duration;

use actix_http::body::MessageBody;
use actix_http::{HttpService, Request, Response};
use actix_server::Server;
use actix_service::{IntoServiceFactory, ServiceFactory, ServiceFactoryExt as _, fn_service, map_config};
use actix_web::Error;
use actix_web::dev::AppConfig;
use actix_web::rt::net::TcpStream;

use crate::delivery::direct_write::Socket;

/// How long connections that are still busy may keep a stopping service, in seconds.
const STOP_TIMEOUT: u64 = 1;

/// How long a peer may take to close its side of a connection.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How much of a body is written to a socket at once, in bytes: two or three pieces of a shared one, a chunk of any other.
const WRITTEN_AT_ONCE: usize = 64 * 1024;

/// What the kernel buffers for one client, in bytes; Linux takes twice as much.
const SEND_BUFFER: usize = 256 * 1024;

/// Serves an application on a listener, with a thread for each processor or as many as are given.
pub(crate) fn server<F, I, S, B>(
    listener: TcpListener,
    workers: Option<usize>,
    peer_timeout: Duration,
    application: F,
) -> std::io::Result<Server>
where
    F: Fn() -> I + Send + Clone + 'static,
    I: IntoServiceFactory<S, Request>,
    S: ServiceFactory<Request, Config = AppConfig> + 'static,
    S::Error: Into<Error> + 'static,
    S::InitError: fmt::Debug,
    S::Response: Into<Response<B>> + 'static,
    S::Service: 'static,
    <S::Service as actix_service::Service<Request>>::Future: 'static,
    B: MessageBody + 'static,
{
    let mut builder = Server::build().disable_signals().shutdown_timeout(STOP_TIMEOUT);
    if let Some(workers) = workers {
        builder = builder.workers(workers);
    }
    let stopping = builder.graceful_shutdown_signal();
    let address = listener.local_addr()?;
    let builder = builder.listen("http", listener, move || {
        let stopping = stopping.clone();
        let service = HttpService::build()
            .graceful_shutdown_signal(move || {
                let stopping = stopping.clone();
                async move { stopping.notified().await }
            })
            .client_disconnect_timeout(DISCONNECT_TIMEOUT)
            .h1_write_buffer_size(WRITTEN_AT_ONCE)
            // A client that closes its side of a quiet stream has gone.
            .h1_allow_half_closed(false)
            .local_addr(address)
            // Weak: a connection that the framework has ended must not be held by anything that is kept of its requests.
            .on_connect_ext(|socket: &Socket, kept| drop(kept.insert(Rc::downgrade(socket.writer()))))
            .h1(map_config(application().into_factory().map_err(|error| error.into().error_response()), |()| {
                AppConfig::default()
            }));
        fn_service(move |stream: TcpStream| async move {
            let peer = stream.peer_addr().ok();
            let socket = Socket::new(stream);
            set_up(&socket, peer_timeout);
            Ok((socket, peer))
        })
        .and_then(service)
    })?;
    Ok(builder.run())
}

/// What is written goes at once; a peer that does not answer is given up; and the kernel's share of a slow stream has a
/// bound. None can fail in a way that concerns the client.
fn set_up(socket: &Socket, peer_timeout: Duration) {
    let socket = socket2::SockRef::from(socket.stream());
    drop(socket.set_tcp_nodelay(true));
    drop(socket.set_tcp_user_timeout(Some(peer_timeout)));
    drop(socket.set_send_buffer_size(SEND_BUFFER));
}
