//! Content negotiation: the media type and the encoding of a response ([RFC 9110, section 12.5.1](https://www.rfc-editor.org/rfc/rfc9110#section-12.5.1)).

use actix_web::HttpRequest;
use actix_web::http::header::{Accept, AcceptEncoding, Encoding, Header as _, Preference, Quality};

use super::problem::{Kind, Problem};

/// The media type of `offered` that the client prefers; the first of several equal ones, and without an `Accept` header.
///
/// # Errors
/// The client accepts none of them, or its header cannot be parsed.
pub(super) fn accepted(request: &HttpRequest, offered: &[&'static str]) -> Result<&'static str, Problem> {
    if !request.headers().contains_key(Accept::name()) {
        return Ok(offered[0]);
    }
    let accept = Accept::parse(request)
        .map_err(|error| Problem::new(Kind::MalformedRequest, format!("Accept: cannot be parsed: {error}")))?;
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
        let offered = offered.join(", ");
        Problem::new(
            Kind::NotAcceptable,
            format!("Accept: none of the available media types is accepted; expected one of {offered}"),
        )
    })
}

/// Whether a client accepts gzip, and prefers it to an uncompressed body or has no preference.
pub(super) fn takes_gzip(request: &HttpRequest) -> bool {
    // An invalid header requests no compression.
    let Ok(AcceptEncoding(list)) = AcceptEncoding::parse(request) else { return false };
    let named = |wanted: &Encoding| {
        list.iter().find(|one| matches!(&one.item, Preference::Specific(one) if one == wanted)).map(|one| one.quality)
    };
    let any = list.iter().find(|one| one.item == Preference::Any).map(|one| one.quality);
    let gzip = named(&Encoding::gzip()).or(any).unwrap_or(Quality::ZERO);
    gzip > Quality::ZERO && named(&Encoding::identity()).is_none_or(|identity| gzip >= identity)
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

    #[test]
    fn gzip_is_sent_to_clients_that_accept_and_do_not_disfavour_it() {
        let takes =
            |sent: &str| takes_gzip(&TestRequest::default().insert_header(("Accept-Encoding", sent)).to_http_request());
        for sent in ["gzip", "br, gzip", "gzip;q=0.1", "*", "br;q=1, *;q=0.5", "identity;q=0.5, gzip", "gzip, identity"]
        {
            assert!(takes(sent), "{sent}");
        }
        for sent in ["", "br", "gzip;q=0", "gzip;q=0, *", "*;q=0", "identity, gzip;q=0.5", "identity", ";;;"] {
            assert!(!takes(sent), "{sent}");
        }
        assert!(!takes_gzip(&TestRequest::default().to_http_request()));
    }

    fn chosen(accept: &str) -> Option<&'static str> {
        let request = TestRequest::default().insert_header(("Accept", accept)).to_http_request();
        accepted(&request, &OFFERED).ok()
    }

    #[test]
    fn the_client_chooses_and_the_first_offer_is_the_default() {
        assert_eq!(accepted(&TestRequest::default().to_http_request(), &OFFERED).unwrap(), "text/event-stream");
        assert_eq!(chosen("*/*"), Some("text/event-stream"));
        assert_eq!(chosen("application/json"), Some("application/json"));
        assert_eq!(chosen("application/*"), Some("application/json"));
        assert_eq!(chosen("text/html, */*;q=0.1"), Some("text/event-stream"));
        assert_eq!(chosen("text/event-stream;q=0.5, application/json"), Some("application/json"));
        assert_eq!(chosen("text/event-stream;q=0, */*"), Some("application/json"));
        assert_eq!(chosen("text/html"), None);
    }
}
