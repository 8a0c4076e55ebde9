//! How an answer may be kept and used again: its entity tag, and its headers for clients and caches.

use std::fmt::Write as _;
use std::hash::Hasher as _;

use actix_web::HttpResponseBuilder;
use actix_web::http::header::{CACHE_CONTROL, ETAG, VARY};

use crate::domain::history::History;
use crate::domain::revision::Revision;

/// The suffix of the tag of a compressed body.
pub(super) const GZIP: &str = "-gzip";

/// The suffix of the tag of lines.
pub(super) const LINES: &str = "-ndjson";

/// The room for a revision and a suffix, in bytes.
const ROOM: usize = 32;

/// An entity tag, with its quotes ([RFC 9110, section 8.8.3](https://www.rfc-editor.org/rfc/rfc9110#section-8.8.3)). All tags are
/// strong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tag(String);

impl Tag {
    /// The tag of what last changed at this revision. It names the epoch in which the revision was made, so it stays the same
    /// when another epoch begins.
    pub(super) fn of_revision(history: &History, changed: Revision) -> Self {
        let epoch = history.epoch_of(changed).as_str();
        let mut text = String::with_capacity(epoch.len() + ROOM);
        text.push('"');
        text.push_str(epoch);
        text.push('.');
        // A string takes whatever is written.
        let _ = write!(text, "{changed}");
        text.push('"');
        Self(text)
    }

    /// The tag of a body that is not the state at a revision. It never matches the state of an aggregate.
    pub(super) fn of_text(text: &[u8]) -> Self {
        // With its default keys, which are the same in every process.
        let mut hasher = std::hash::DefaultHasher::new();
        hasher.write(text);
        Self(format!("\"{:016x}{:x}\"", hasher.finish(), text.len()))
    }

    /// The tag of another representation of the same. `If-Match` ignores what follows a hyphen.
    #[must_use]
    pub(super) fn with(mut self, suffix: &str) -> Self {
        self.0.insert_str(self.0.len() - 1, suffix);
        self
    }

    /// Without its quotes.
    pub(super) fn as_str(&self) -> &str {
        &self.0[1..self.0.len() - 1]
    }

    /// As in a header.
    pub(super) fn quoted(&self) -> &str {
        &self.0
    }
}

/// What clients and caches may do with an answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caching {
    control: &'static str,
    /// The headers of requests by which answers differ; empty if there are none.
    vary: &'static str,
}

impl Caching {
    /// A state or a description: kept, and asked for again each time.
    pub(super) const STATE: Self = Self { control: "no-cache", vary: "Accept, Accept-Encoding" };
    /// A file that is part of the program.
    pub(super) const FILE: Self = Self { control: "no-cache", vary: "Accept-Encoding" };
    /// The answer to a write.
    pub(super) const WRITTEN: Self = Self { control: "no-cache", vary: "" };
    /// A page of a feed.
    pub(super) const PAGE: Self = Self { control: "no-store", vary: "Accept" };
    /// A feed as a stream.
    pub(super) const STREAM: Self = Self { control: "no-cache, no-transform", vary: "Accept" };
    /// What the service itself is like at the moment.
    pub(super) const MOMENT: Self = Self { control: "no-store", vary: "" };

    /// The headers of an answer. All answers but errors get them here, and the front adds what depends on the caller.
    pub(super) fn insert(self, response: &mut HttpResponseBuilder, tag: Option<&Tag>) {
        response.insert_header((CACHE_CONTROL, self.control));
        if !self.vary.is_empty() {
            response.insert_header((VARY, self.vary));
        }
        if let Some(tag) = tag {
            response.insert_header((ETAG, tag.quoted()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_of_a_text_differs_with_the_text_and_is_no_revision() {
        let tags = ["", "a", "b", "aa"].map(|text| Tag::of_text(text.as_bytes()));
        for (index, tag) in tags.iter().enumerate() {
            assert!(!tags[..index].contains(tag) && !tag.as_str().contains(['.', '-']), "{tag:?}");
        }
        assert_eq!(Tag::of_text(b"a"), tags[1]);
        assert_eq!(Tag::of_text(b"a").with(GZIP).quoted(), format!("\"{}-gzip\"", tags[1].as_str()));
    }
}
