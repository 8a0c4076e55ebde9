//! The permission to follow a stream, which ends with the token that the request came with.

use std::future::Future as _;
#[cfg(feature = "direct-write")]
use std::net::Shutdown;
use std::pin::Pin;
#[cfg(feature = "direct-write")]
use std::rc::Rc;
use std::task::Context;

use actix_web::rt;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::authorization::ended;
use super::request::RequestContext;

/// The permission to follow a stream.
pub(super) enum StreamPermission {
    /// There is no end to it.
    Endless,
    /// It ends with a token.
    Until(TokenEnd),
}

/// The end of a token, for which a task waits, until this is dropped with its stream.
pub(super) struct TokenEnd {
    /// `None` when it has come.
    coming: Option<oneshot::Receiver<()>>,
    task: JoinHandle<()>,
}

impl StreamPermission {
    /// That of a request. The framework asks for more of a body only when it has written what it has, so it never would for a
    /// client that reads nothing: the connection of such a client ends one heartbeat after the permission.
    pub(super) fn of(context: &RequestContext) -> Self {
        let Some(grant) = context.caller().grant().cloned() else { return Self::Endless };
        let interval = context.shared.heartbeat;
        #[cfg(feature = "direct-write")]
        let connection = context.connection().map(|connection| Rc::downgrade(&connection));
        let (sender, coming) = oneshot::channel();
        let task = rt::spawn(async move {
            ended(Some(grant), interval).await;
            // Somebody waits for it as long as the task is not aborted.
            let _ = sender.send(());
            #[cfg(feature = "direct-write")]
            {
                rt::time::sleep(interval).await;
                if let Some(connection) = connection.and_then(|connection| connection.upgrade()) {
                    connection.shut_down(Shutdown::Both);
                }
            }
        });
        Self::Until(TokenEnd { coming: Some(coming), task })
    }

    /// Whether it has ended. If it has not, the task is woken when it does.
    pub(super) fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        let Self::Until(TokenEnd { coming, .. }) = self else { return false };
        if coming.as_mut().is_some_and(|coming| Pin::new(coming).poll(context).is_ready()) {
            *coming = None;
        }
        coming.is_none()
    }
}

impl Drop for TokenEnd {
    fn drop(&mut self) {
        self.task.abort();
    }
}
