//! The last request of a connection: those that a client has sent after it are not answered.
//!
//! The framework answers every request that it has read. But after a request with `Connection: close` no further ones may
//! be processed ([RFC 9112, section 9.6](https://www.rfc-editor.org/rfc/rfc9112#section-9.6)), and behind a body that ends
//! with the connection, another response would be read as a part of it.

use std::cell::Cell;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::{ConnectionType, Version};
use actix_web::web::Bytes;
use actix_web::{HttpRequest, HttpResponse, rt};

use super::feed_response::StreamAborted;

/// Whether a connection has had its last request.
#[derive(Debug, Default)]
pub(super) struct LastRequest(Cell<bool>);

impl LastRequest {
    /// Whether the connection of this request had its last one before it.
    pub(super) fn is_before(request: &HttpRequest) -> bool {
        let Some(last) = request.conn_data::<Self>() else { return false };
        last.0.replace(last.0.get() || request.head().connection_type() == ConnectionType::Close)
    }

    /// The connection ends with the response to this request.
    #[cfg(feature = "direct-write")]
    pub(super) fn is_now(request: &HttpRequest) {
        if let Some(last) = request.conn_data::<Self>() {
            last.0.set(true);
        }
    }

    /// Ends the connection with this response if it must: after the last request, and after a body without a length for a
    /// client of HTTP/1.0, which knows no chunks
    /// ([RFC 9112, section 6.1](https://www.rfc-editor.org/rfc/rfc9112#section-6.1)). Nothing follows a response that says
    /// itself that it is the last one.
    pub(super) fn end(mut response: ServiceResponse) -> ServiceResponse {
        // The framework uses the heads of responses again, leaves the version of their last use in them, and sets the right one
        // later. With HTTP/1.0, each would say that it is the last one.
        response.response_mut().head_mut().version = Version::HTTP_11;
        let request = response.request();
        let is_unframed = request.version() < Version::HTTP_11 && response.response().body().size() == BodySize::Stream;
        // The framework ends a connection after a request to upgrade it, and would say that it is upgraded.
        let is_upgrade = request.head().connection_type() == ConnectionType::Upgrade;
        let closes = is_upgrade || response.response().head().connection_type() == ConnectionType::Close;
        let last = request.conn_data::<Self>();
        if let Some(last) = last.filter(|_| is_unframed || closes) {
            last.0.set(true);
        }
        let is_last = last.is_some_and(|last| last.0.get());
        let head = response.response_mut().head_mut();
        if is_unframed {
            head.no_chunking(true);
        }
        if is_last || is_unframed {
            head.set_connection_type(ConnectionType::Close);
        }
        response
    }
}

/// How often is looked whether a client has taken the response to its last request.
const FLUSH_INTERVAL: Duration = Duration::from_millis(5);

/// Ends the connection without a response, when the earlier ones have been sent.
pub(super) async fn hang_up(request: ServiceRequest) -> ServiceResponse {
    let (request, _) = request.into_parts();
    while !is_flushed(&request).await {}
    ServiceResponse::new(request, no_response())
}

/// Ends the connection in the place of a response.
pub(super) fn no_response() -> HttpResponse {
    HttpResponse::Ok().body(BoxBody::new(NoResponse))
}

/// Whether the kernel has everything that was written to the connection.
#[cfg(feature = "direct-write")]
async fn is_flushed(request: &HttpRequest) -> bool {
    use crate::delivery::direct_write::DirectWriter;
    rt::time::sleep(FLUSH_INTERVAL).await;
    let writer = request.conn_data::<std::rc::Weak<DirectWriter>>().and_then(std::rc::Weak::upgrade);
    writer.is_none_or(|writer| writer.is_idle())
}

/// The framework does not say it, so the client gets some time.
#[cfg(not(feature = "direct-write"))]
async fn is_flushed(_: &HttpRequest) -> bool {
    rt::time::sleep(super::connection::DISCONNECT_TIMEOUT.max(FLUSH_INTERVAL)).await;
    true
}

/// A body that fails at once: the framework then discards the head of the response, and ends the connection.
struct NoResponse;

impl MessageBody for NoResponse {
    type Error = StreamAborted;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, StreamAborted>>> {
        Poll::Ready(Some(Err(StreamAborted)))
    }
}
