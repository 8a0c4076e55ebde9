//! Content negotiation: the media type and the coding of a response
//! ([RFC 9110, section 12.5](https://www.rfc-editor.org/rfc/rfc9110#section-12.5)).

use actix_web::HttpRequest;
use actix_web::http::header::{Accept, AcceptEncoding, Encoding, Header as _, Preference, Quality};

use super::problem::{Kind, Problem};

/// The media type of `offered` that the client prefers, of a response that is never compressed.
///
/// # Errors
/// See [`accepted_type`]; or the client takes compressed responses only.
pub(super) fn accepted(request: &HttpRequest, offered: &[&'static str]) -> Result<&'static str, Problem> {
    let media_type = accepted_type(request, offered)?;
    check_identity(request)?;
    Ok(media_type)
}

/// The media type of `offered` that the client prefers; the first of several equal ones, and if it names none.
///
/// # Errors
/// The client accepts none of them, or its header cannot be parsed.
pub(super) fn accepted_type(request: &HttpRequest, offered: &[&'static str]) -> Result<&'static str, Problem> {
    if !request.headers().contains_key(Accept::name()) {
        return Ok(offered[0]);
    }
    let accept = Accept::parse(request)
        .map_err(|error| Problem::new(Kind::MalformedRequest, format!("Accept: cannot be parsed: {error}")))?;
    if accept.is_empty() {
        return Ok(offered[0]);
    }
    let mut best = None;
    for offer in offered {
        // The most specific range that matches an offer decides, even if its quality is 0.
        let quality = accept
            .iter()
            .filter_map(|range| Some((specificity(range.item.essence_str(), offer)?, range.quality)))
            .max_by_key(|(specificity, _)| *specificity)
            .map(|(_, quality)| quality)
            .filter(|quality| *quality > Quality::ZERO);
        if let Some(quality) = quality
            && best.is_none_or(|(known, _)| quality > known)
        {
            best = Some((quality, *offer));
        }
    }
    best.map(|(_, offer)| offer).ok_or_else(|| {
        let detail =
            format!("Accept: none of the available media types is accepted; expected one of {}", offered.join(", "));
        Problem::new(Kind::NotAcceptable, detail).with("expected", offered.to_vec())
    })
}

/// How a client takes a response that can be compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    /// As it is.
    Identity,
    /// By gzip if that is worth it.
    Gzip,
    /// By gzip only.
    OnlyGzip,
}

/// How the client takes a response that can be compressed.
///
/// # Errors
/// It takes neither.
pub(super) fn coding(request: &HttpRequest) -> Result<Coding, Problem> {
    let Qualities { gzip, identity, best } = Qualities::of(request);
    if identity == Some(Quality::ZERO) {
        // Who only says what it does not take, takes the rest.
        let is_taken = gzip.map_or(best == Quality::ZERO, |gzip| gzip > Quality::ZERO);
        return if is_taken { Ok(Coding::OnlyGzip) } else { Err(not_acceptable(&["gzip", "identity"])) };
    }
    let gzip = gzip.unwrap_or(Quality::ZERO);
    let is_preferred = gzip > Quality::ZERO && identity.is_none_or(|identity| gzip >= identity);
    Ok(if is_preferred { Coding::Gzip } else { Coding::Identity })
}

/// Checks that the client takes a response that is not compressed.
///
/// # Errors
/// It does not.
pub(super) fn check_identity(request: &HttpRequest) -> Result<(), Problem> {
    // Nearly all requests have no quality of zero, so nothing has to be parsed.
    let mut sent = request.headers().get_all(AcceptEncoding::name());
    if !sent.any(|line| memchr::memmem::find(line.as_bytes(), b"=0").is_some()) {
        return Ok(());
    }
    match Qualities::of(request).identity {
        Some(Quality::ZERO) => Err(not_acceptable(&["identity"])),
        _ => Ok(()),
    }
}

fn not_acceptable(expected: &[&'static str]) -> Problem {
    let detail =
        format!("Accept-Encoding: none of the available codings is accepted; expected {}", expected.join(" or "));
    Problem::new(Kind::NotAcceptable, detail).with("expected", expected.to_vec())
}

/// How much a client likes each coding.
struct Qualities {
    /// Zero if it does not take it; `None` if it does not name it.
    gzip: Option<Quality>,
    /// `None` if the client does not name it, which accepts it, after all that it names.
    identity: Option<Quality>,
    /// The highest of all that it names.
    best: Quality,
}

impl Qualities {
    fn of(request: &HttpRequest) -> Self {
        let mut qualities = Self { gzip: None, identity: None, best: Quality::ZERO };
        if !request.headers().contains_key(AcceptEncoding::name()) {
            return qualities;
        }
        // What cannot be parsed says nothing.
        let Ok(AcceptEncoding(list)) = AcceptEncoding::parse(request) else { return qualities };
        // The first one that names a coding decides, and `*` is for all that are not named.
        let named = |is_it: fn(&str) -> bool| {
            let names = |one: &Preference<Encoding>| matches!(one, Preference::Specific(one) if is_it(name(one)));
            list.iter().find(|one| names(&one.item)).map(|one| one.quality)
        };
        let any = list.iter().find(|one| one.item == Preference::Any).map(|one| one.quality);
        let gzip = named(|name| name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip"));
        qualities.gzip = gzip.or(any);
        qualities.best = list.iter().map(|one| one.quality).max().unwrap_or(Quality::ZERO);
        qualities.identity = named(|name| name.eq_ignore_ascii_case("identity")).or(any);
        qualities
    }
}

fn name(encoding: &Encoding) -> &str {
    match encoding {
        Encoding::Known(known) => known.as_str(),
        Encoding::Unknown(name) => name,
    }
}

/// How specifically a media range matches a type; `None` if it does not match.
fn specificity(range: &str, offer: &str) -> Option<u8> {
    if range == "*/*" {
        return Some(0);
    }
    if range == offer {
        return Some(2);
    }
    let kind = range.strip_suffix("/*")?;
    (offer.split('/').next() == Some(kind)).then_some(1)
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    const OFFERED: [&str; 2] = ["text/event-stream", "application/json"];

    fn coding_for(sent: &str) -> Option<Coding> {
        coding(&TestRequest::default().insert_header(("Accept-Encoding", sent)).to_http_request()).ok()
    }

    #[test]
    fn gzip_is_sent_to_clients_that_accept_and_do_not_disfavour_it() {
        for sent in [
            "gzip",
            "br, gzip",
            "gzip;q=0.1",
            "*",
            "br;q=1, *;q=0.5",
            "identity;q=0.5, gzip",
            "gzip, identity",
            "x-gzip",
            "GZIP",
        ] {
            assert_eq!(coding_for(sent), Some(Coding::Gzip), "{sent}");
        }
        for sent in [
            "",
            "br",
            "gzip;q=0",
            "gzip;q=0, *",
            "identity, gzip;q=0.5",
            "identity",
            ";;;",
            "gzip;q=0.5, *",
            "*;q=0, identity",
        ] {
            assert_eq!(coding_for(sent), Some(Coding::Identity), "{sent}");
        }
        for sent in
            ["*;q=0, gzip", "identity;q=0", "identity;q=0, gzip;q=0.1", "identity;q=0, *", "identity;q=0, *;q=0.5"]
        {
            assert_eq!(coding_for(sent), Some(Coding::OnlyGzip), "{sent}");
        }
        for sent in ["*;q=0", "identity;q=0, br", "identity;q=0.000, gzip;q=0"] {
            assert_eq!(coding_for(sent), None, "{sent}");
            let request = TestRequest::default().insert_header(("Accept-Encoding", sent)).to_http_request();
            assert!(check_identity(&request).is_err(), "{sent}");
        }
        assert_eq!(coding(&TestRequest::default().to_http_request()).unwrap(), Coding::Identity);
    }

    fn chosen(accept: &str) -> Option<&'static str> {
        let request = TestRequest::default().insert_header(("Accept", accept)).to_http_request();
        accepted_type(&request, &OFFERED).ok()
    }

    #[test]
    fn the_client_chooses_and_the_first_offer_is_the_default() {
        assert_eq!(accepted_type(&TestRequest::default().to_http_request(), &OFFERED).unwrap(), "text/event-stream");
        assert_eq!(chosen("*/*"), Some("text/event-stream"));
        assert_eq!(chosen("application/json"), Some("application/json"));
        assert_eq!(chosen("application/*"), Some("application/json"));
        assert_eq!(chosen("text/html, */*;q=0.1"), Some("text/event-stream"));
        assert_eq!(chosen("text/event-stream;q=0.5, application/json"), Some("application/json"));
        assert_eq!(chosen("text/event-stream;q=0, */*"), Some("application/json"));
        assert_eq!(chosen("*/*;q=0.1, text/event-stream;q=0"), Some("application/json"));
        assert_eq!(chosen("text/*;q=0.1, application/*;q=0.2"), Some("application/json"));
        assert_eq!(chosen("application/json;q=0.1, */*"), Some("text/event-stream"));
        assert_eq!(chosen("application/json;q=0, application/*"), None);
        assert_eq!(chosen("APPLICATION/JSON"), Some("application/json"));
        assert_eq!(chosen("application/json; charset=utf-8"), Some("application/json"));
        assert_eq!(chosen(""), Some("text/event-stream"));
        assert_eq!(chosen("text/html"), None);
        assert_eq!(chosen("*/*;q=0"), None);
    }
}
