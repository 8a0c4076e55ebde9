//! A server like the framework's own, whose connections hubs may write to.

use std::fmt;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;

use actix_http::body::MessageBody;
use actix_http::error::DispatchError;
use actix_http::{HttpService, Request, Response};
use actix_server::Server;
use actix_service::{
    IntoServiceFactory, Service, ServiceFactory, ServiceFactoryExt as _, apply_fn_factory, fn_service, map_config,
};
use actix_web::Error;
use actix_web::dev::AppConfig;
use actix_web::rt::net::TcpStream;

use super::bare_answers::explained;
use super::connection::{ConnectionLimits, DISCONNECT_TIMEOUT, STOP_TIMEOUT, WRITE_BUFFER, set_up};
use super::half_heads::HalfHeads;
use super::last_request::LastRequest;
use crate::delivery::direct_write::Socket;
use crate::delivery::entrance::Entrance;
use crate::delivery::stream_connection::ConnectionTask;
use crate::delivery::transport::Transport;

/// Serves an application on a listener with this many threads.
pub(super) fn serve<F, I, S, B>(
    listener: TcpListener,
    workers: usize,
    limits: ConnectionLimits,
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
    <S::Service as Service<Request>>::Future: 'static,
    B: MessageBody + 'static,
{
    let builder = Server::build()
        .workers(workers)
        .max_concurrent_connections(limits.per_worker(workers))
        .disable_signals()
        .shutdown_timeout(STOP_TIMEOUT);
    let stopping = builder.graceful_shutdown_signal();
    let address = listener.local_addr()?;
    let builder = builder.listen("http", listener, move || {
        let (stopping, limits) = (stopping.clone(), limits.clone());
        let half_heads = HalfHeads::end_after(limits.keep_alive);
        let entrance = Entrance::default();
        let service = HttpService::build()
            .graceful_shutdown_signal(move || {
                let stopping = stopping.clone();
                async move { stopping.notified().await }
            })
            .keep_alive(limits.keep_alive)
            .client_disconnect_timeout(DISCONNECT_TIMEOUT)
            .h1_write_buffer_size(WRITE_BUFFER)
            // A client that closes its side of a quiet stream has disconnected.
            .h1_allow_half_closed(false)
            .local_addr(address)
            // Weak: what is kept of a request must not keep a connection that the framework has ended.
            .on_connect_ext(move |socket: &Socket, extensions| {
                half_heads.add(socket.writer());
                extensions.insert(Rc::downgrade(socket.writer()));
                extensions.insert(LastRequest::default());
            })
            .h1(map_config(application().into_factory().map_err(|error| error.into().error_response()), |()| {
                AppConfig::default()
            }));
        let service = apply_fn_factory(service, |(socket, peer): (Socket, Option<SocketAddr>), framework: &_| {
            ConnectionTask::new(Rc::clone(socket.writer()), Service::call(framework, (socket, peer)))
        });
        fn_service(move |stream: TcpStream| {
            set_up(&stream, limits.peer_timeout);
            let peer = stream.peer_addr().ok();
            // A connection counts before its handshake.
            let intake = limits.intake(peer.map(|peer| peer.ip()));
            #[cfg(feature = "tls")]
            let tls = limits.tls.clone();
            let entrance = entrance.clone();
            // In a block of its own, since it is as large as everything that a stream takes.
            Box::pin(async move {
                let intake = intake.ok_or_else(|| DispatchError::Io(ErrorKind::ConnectionRefused.into()))?;
                #[cfg(feature = "tls")]
                if let Some(tls) = tls {
                    let transport = tls.accept(stream).await.map_err(|error| {
                        log::debug!("a handshake failed: {error}");
                        DispatchError::Io(error)
                    })?;
                    intake.enter(entrance.enter().await);
                    return Ok((Socket::new(transport, intake, explained), peer));
                }
                intake.enter(entrance.enter().await);
                Ok((Socket::new(Transport::Plain(stream), intake, explained), peer))
            })
        })
        .and_then(service)
    })?;
    Ok(builder.run())
}
