//! The id of a request: in its response, in what is logged while it is answered, and in its problem document.

use std::future::Future;
use std::str;

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::task::futures::TaskLocalFuture;

use crate::domain::metadata::is_well_formed;
use crate::domain::unique_id::UniqueId;

/// The header with the id of a request.
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The id of a request.
#[derive(Debug, Clone)]
pub(super) struct RequestId(HeaderValue);

tokio::task_local! {
    static CURRENT: RequestId;
}

impl RequestId {
    /// The id that a client sent, if it is well-formed: 1 to 128 visible ASCII characters. Otherwise a new one.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        match headers.get(X_REQUEST_ID) {
            Some(sent) if is_well_formed(sent.as_bytes()) => Self(sent.clone()),
            _ => Self::new(),
        }
    }

    pub(super) fn new() -> Self {
        let id = UniqueId::new();
        Self(HeaderValue::from_str(id.as_str()).expect("a uuid has visible characters only"))
    }

    pub(super) fn as_str(&self) -> &str {
        // `to_str` would look at each character.
        str::from_utf8(self.0.as_bytes()).expect("a well-formed id has visible ASCII characters only")
    }

    /// Whatever the work does on this thread belongs to the request. The future has the id again at its end
    /// (`take_value`): a copy would take memory of its own.
    pub(super) fn scope<F: Future>(self, work: F) -> TaskLocalFuture<Self, F> {
        CURRENT.scope(self, work)
    }

    /// The same for work that is done at once.
    pub(super) fn within<T>(&self, work: impl FnOnce() -> T) -> T {
        CURRENT.sync_scope(self.clone(), work)
    }

    /// Adds the id to the headers of a response.
    pub(super) fn insert(self, headers: &mut HeaderMap) {
        headers.insert(X_REQUEST_ID, self.0);
    }
}

/// Calls `use_id` with the id of the request that this thread is answering, if there is one.
pub(crate) fn with_current<T>(use_id: impl FnOnce(&str) -> T) -> Option<T> {
    CURRENT.try_with(|id| use_id(id.as_str())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id_of(sent: &[u8]) -> RequestId {
        let mut headers = HeaderMap::new();
        headers.insert(X_REQUEST_ID, HeaderValue::from_bytes(sent).unwrap());
        RequestId::of(&headers)
    }

    #[test]
    fn a_well_formed_id_stays_and_any_other_is_replaced() {
        let longest = "x".repeat(128);
        for sent in ["1", "4bf92f3577b34da6-7", "\"a\\", &longest] {
            assert_eq!(id_of(sent.as_bytes()).as_str(), sent);
        }
        let too_long = "x".repeat(129);
        for sent in ["", "a b", "\t", "ä", &too_long] {
            assert_eq!(id_of(sent.as_bytes()).as_str().len(), 36, "{sent:?}");
        }
        assert_ne!(RequestId::of(&HeaderMap::new()).as_str(), RequestId::of(&HeaderMap::new()).as_str());
    }

    #[test]
    fn the_id_is_known_within_the_work_of_its_request_only() {
        actix_web::rt::System::new().block_on(async {
            assert_eq!(with_current(str::to_owned), None);
            let seen = id_of(b"outer").scope(async {
                let inner = id_of(b"inner").scope(async {
                    actix_web::rt::task::yield_now().await;
                    with_current(str::to_owned)
                });
                (inner.await, with_current(str::to_owned))
            });
            assert_eq!(seen.await, (Some("inner".to_owned()), Some("outer".to_owned())));
            assert_eq!(with_current(str::to_owned), None);
        });
    }
}
