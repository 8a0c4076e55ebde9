//! What a listener has of the service: everything, or what clients need and operators do not.

use std::sync::OnceLock;

use actix_web::{HttpRequest, web};

use super::constant_body::ConstantBody;
use crate::access::need::Need;

/// What one listener has.
#[derive(Debug)]
pub(crate) struct Surface {
    operating: Operating,
    page: Page,
    /// What `/openapi.json` returns, made for the first client that asks for it.
    pub(super) openapi: OnceLock<ConstantBody>,
}

/// Where operators find what is theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operating {
    Here,
    /// On a listener of their own.
    Elsewhere,
}

/// Whether there is the page, with what belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Page {
    Shown,
    Absent,
}

impl Surface {
    pub(crate) fn new(operating: Operating, page: Page) -> Self {
        Self { operating, page, openapi: OnceLock::new() }
    }

    /// The surface of the listener that a request has come to.
    pub(super) fn of(request: &HttpRequest) -> Option<&Self> {
        request.app_data::<web::Data<Self>>().map(|surface| &***surface)
    }

    /// Whether a method of a path is here. The others are answered like any path that does not exist.
    pub(super) fn has(&self, need: Need) -> bool {
        self.operating == Operating::Here || need != Need::Operate
    }

    pub(super) fn has_page(&self) -> bool {
        self.page == Page::Shown
    }
}
