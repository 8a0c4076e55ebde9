//! `OPTIONS`: what can be done at a path ([RFC 9110, section 9.3.7](https://www.rfc-editor.org/rfc/rfc9110#section-9.3.7)).

use actix_web::HttpResponse;
use actix_web::http::Method;
use actix_web::http::header::ALLOW;

use super::media_types::{JSON, MERGE_PATCH};

/// What can be done at a path.
#[derive(Debug, Clone)]
pub(super) struct Options {
    /// The methods, as in the header `Allow`.
    pub(super) allowed: String,
    /// The headers that name the media types of bodies, with their values.
    accepts: Vec<(&'static str, String)>,
}

impl Options {
    /// `HEAD` is there wherever `GET` is, and `OPTIONS` everywhere.
    pub(super) fn of<'a>(methods: impl IntoIterator<Item = &'a Method> + Clone) -> Self {
        let names = methods.clone().into_iter().flat_map(|method| match *method {
            Method::GET => vec!["GET", "HEAD"],
            _ => vec![method.as_str()],
        });
        let allowed: Vec<_> = names.chain(["OPTIONS"]).collect();
        let accept = |method: &Method| Some((accept_of(method)?, body_types(method).join(", ")));
        Self { allowed: allowed.join(", "), accepts: methods.into_iter().filter_map(accept).collect() }
    }

    pub(super) fn response(&self) -> HttpResponse {
        let mut response = HttpResponse::NoContent();
        response.insert_header((ALLOW, self.allowed.as_str()));
        for accept in &self.accepts {
            response.insert_header((accept.0, accept.1.as_str()));
        }
        response.finish()
    }
}

/// The header that names the media types of the bodies of a method
/// ([RFC 5789, section 3.1](https://www.rfc-editor.org/rfc/rfc5789#section-3.1),
/// [Linked Data Platform, section 7.1](https://www.w3.org/TR/ldp/#header-accept-post)).
pub(super) fn accept_of(method: &Method) -> Option<&'static str> {
    match *method {
        Method::PATCH => Some("Accept-Patch"),
        Method::POST => Some("Accept-Post"),
        _ => None,
    }
}

/// The media types of the body of a method.
pub(super) fn body_types(method: &Method) -> &'static [&'static str] {
    if method == Method::PATCH { &[MERGE_PATCH, JSON] } else { &[JSON] }
}
