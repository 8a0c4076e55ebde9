//! What a client prefers ([RFC 7240](https://www.rfc-editor.org/rfc/rfc7240)).

use actix_web::http::header::{HeaderMap, HeaderName};

/// The header with what a client prefers.
const PREFER: HeaderName = HeaderName::from_static("prefer");

/// The header with the preferences that a response follows.
pub(super) const APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// What a client wants as the response to a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Returned {
    /// No body.
    Minimal,
    /// The state.
    Representation,
}

/// The preferences that this service knows. Others are ignored, and so is what cannot be read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Preferences {
    pub(super) returned: Option<Returned>,
    pub(super) handling: Option<Handling>,
}

/// How a client wants a request to be handled that cannot be fulfilled exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Handling {
    Strict,
    Lenient,
}

impl Preferences {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut preferences = Self::default();
        let lines = headers.get_all(PREFER).filter_map(|line| line.to_str().ok());
        let mut seen = Vec::new();
        for preference in lines.flat_map(|line| split(line, ',')) {
            // Parameters follow, of which none is known here.
            let first = split(preference, ';').next().unwrap_or_default();
            let (name, value) = first.split_once('=').unwrap_or((first, ""));
            let (name, value) = (name.trim().to_ascii_lowercase(), unquoted(value.trim()));
            // Only the first of the same name counts (section 2).
            if !name.is_empty() && !seen.contains(&name) {
                preferences.set(&name, value);
                seen.push(name);
            }
        }
        preferences
    }

    fn set(&mut self, name: &str, value: &str) {
        match (name, value.to_ascii_lowercase().as_str()) {
            ("return", "minimal") => self.returned = Some(Returned::Minimal),
            ("return", "representation") => self.returned = Some(Returned::Representation),
            ("handling", "strict") => self.handling = Some(Handling::Strict),
            ("handling", "lenient") => self.handling = Some(Handling::Lenient),
            _ => {}
        }
    }
}

/// The parts of a text between separators that are not within quotes.
fn split(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    text.split(move |c| {
        let was_escaped = std::mem::take(&mut is_escaped);
        match c {
            '"' if !was_escaped => is_quoted = !is_quoted,
            '\\' if is_quoted && !was_escaped => is_escaped = true,
            _ => return c == separator && !is_quoted,
        }
        false
    })
}

fn unquoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn preferences_are_read_from_lists_lines_and_quotes() {
        let (minimal, whole) = (Some(Returned::Minimal), Some(Returned::Representation));
        let (strict, lenient) = (Some(Handling::Strict), Some(Handling::Lenient));
        for (lines, returned, handling) in [
            (&[][..], None, None),
            (&["return=minimal"], minimal, None),
            (&["return=representation"], whole, None),
            (&["Return = \"Minimal\" ; x=1"], minimal, None),
            (&["respond-async, wait=10, return=minimal, handling=strict"], minimal, strict),
            (&["x=\"a, return=minimal\", handling=lenient"], None, lenient),
            (&["x=\"\\\", return=minimal\""], None, None),
            (&["x;y=\"a;b,c\",return=minimal"], minimal, None),
            (&["return=minimal", "return=representation"], minimal, None),
            (&["return=nothing, return=minimal"], None, None),
            (&["handling=strict", "return=minimal"], minimal, strict),
            (&[",, ,return=minimal,"], minimal, None),
            (&["return", "return=minimal"], None, None),
            (&["x=\"return=minimal"], None, None),
            (&["minimal", "=minimal"], None, None),
        ] {
            let request =
                lines.iter().fold(TestRequest::default(), |request, line| request.append_header(("Prefer", *line)));
            let got = Preferences::of(request.to_http_request().headers());
            assert_eq!(got, Preferences { returned, handling }, "{lines:?}");
        }
    }
}
