//! What a request needs: each method of each path has one of these in the table of the routes.

use std::borrow::Cow;
use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, percent_decode_str, utf8_percent_encode};

use crate::domain::collection::Registry;
use crate::domain::key::{CollectionId, Key};

/// What a caller must be allowed to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Nothing: everybody gets the response.
    Open,
    /// A token, whatever it permits.
    Token,
    /// To read a part of what the service has.
    Read(Part),
    /// To write a part of it.
    Write(Part),
    /// To operate the service: its projections, its metrics, its files.
    Operate,
}

/// A part of what the service has. Keys and names of reports are in the path of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// The whole document, or the journal: the handler shows those collections that the caller may read.
    Document,
    /// A collection. A caller that may read single aggregates of it names them by `?key=`, which the handler checks.
    Collection(CollectionId),
    /// The aggregate whose key is the second segment of the path.
    Aggregate(CollectionId),
    /// The report whose name is the second segment of the path.
    Report,
}

/// The characters that are percent-encoded in a path segment: all but the unreserved ones of RFC 3986.
pub(crate) const PATH_SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The second segment of a path as the client has sent it: the framework's path is partly decoded already.
pub(crate) fn second_segment(path: &str) -> &str {
    path.split('/').nth(2).unwrap_or_default()
}

/// The name in the second segment of a path, decoded; `None` if it is not valid UTF-8.
pub(crate) fn name_in(path: &str) -> Option<Cow<'_, str>> {
    percent_decode_str(second_segment(path)).decode_utf8().ok()
}

/// The key in the second segment of a path.
pub(super) fn key_in(path: &str) -> Option<Key> {
    Key::parse(&name_in(path)?).ok()
}

fn encoded(key: &Key) -> PercentEncode<'_> {
    utf8_percent_encode(key.as_str(), PATH_SEGMENT)
}

/// The scope that a caller lacks, for the response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MissingScope(String);

impl MissingScope {
    /// The narrowest scope that would be enough for a request with this path.
    pub(crate) fn of(need: Need, path: &str, registry: &Registry) -> Self {
        let name = |id| registry.get(id).name();
        let part = |part| match part {
            Part::Document => String::new(),
            Part::Collection(id) => format!(":{}", name(id)),
            Part::Aggregate(id) => match key_in(path) {
                Some(key) => format!(":{}/{}", name(id), encoded(&key)),
                None => format!(":{}", name(id)),
            },
            Part::Report => match key_in(path) {
                Some(report) => format!(":reports/{}", encoded(&report)),
                None => ":reports".to_owned(),
            },
        };
        Self(match need {
            Need::Open | Need::Token => String::new(),
            Need::Read(of) => format!("read{}", part(of)),
            Need::Write(of) => format!("write{}", part(of)),
            Need::Operate => "operate".to_owned(),
        })
    }

    /// The scope for one aggregate.
    pub(crate) fn of_aggregate(collection: &str, key: &Key) -> Self {
        Self(format!("read:{collection}/{}", encoded(key)))
    }

    /// The scope for one collection.
    pub(crate) fn of_collection(collection: &str) -> Self {
        Self(format!("read:{collection}"))
    }
}

impl fmt::Display for MissingScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
