//! A scope: one permission of a token, as people write it.

use std::fmt;
use std::str::FromStr;

use percent_encoding::{percent_decode_str, utf8_percent_encode};

use super::need::PATH_SEGMENT;
use crate::domain::collection::Registry;
use crate::domain::key::Key;

/// The name in a scope that stands for the reports of projections. No collection can have it.
const REPORTS: &str = "reports";

/// What every message about a scope expects.
const EXPECTED: &str = "expected read, write or operate, or for a part of it read:persons, write:carts, read:carts/<key> or read:reports/<name>";

/// One permission: `read`, `write:carts`, `read:carts/<key>`, `read:reports/<name>`, `operate`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scope {
    Read(Extent),
    Write(Extent),
    Operate,
}

/// How far a permission reaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Extent {
    /// All collections, and to read all reports.
    All,
    /// The collection with this name.
    Collection(String),
    /// One aggregate of the collection with this name, be it there or not.
    Aggregate(String, Key),
    /// All reports.
    Reports,
    /// The report with this name.
    Report(String),
}

/// Why a text is no scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InvalidScope(String);

impl Scope {
    /// Checks that the collection of a scope exists.
    ///
    /// # Errors
    /// Names the collections that there are.
    pub(crate) fn check(&self, registry: &Registry) -> Result<(), InvalidScope> {
        let (Self::Read(extent) | Self::Write(extent)) = self else { return Ok(()) };
        let (Extent::Collection(name) | Extent::Aggregate(name, _)) = extent else { return Ok(()) };
        if registry.id(name).is_some() {
            return Ok(());
        }
        let names: Vec<_> = registry.ids().map(|id| registry.get(id).name()).collect();
        Err(InvalidScope(format!("{self}: unknown collection {name:?}; expected {}", names.join(", "))))
    }
}

impl FromStr for Scope {
    type Err = InvalidScope;

    fn from_str(text: &str) -> Result<Self, InvalidScope> {
        let invalid = || InvalidScope(format!("{text:?} is not a scope; {EXPECTED}"));
        let (verb, extent) = text.split_once(':').map_or((text, None), |(verb, extent)| (verb, Some(extent)));
        match (verb, extent) {
            ("read", None) => Ok(Self::Read(Extent::All)),
            ("write", None) => Ok(Self::Write(Extent::All)),
            ("operate", None) => Ok(Self::Operate),
            ("read", Some(extent)) => Extent::parse(extent).map(Self::Read).ok_or_else(invalid),
            ("write", Some(extent)) => match Extent::parse(extent) {
                Some(Extent::Reports | Extent::Report(_)) => {
                    Err(InvalidScope(format!("{text:?} is not a scope: reports cannot be written")))
                }
                extent => extent.map(Self::Write).ok_or_else(invalid),
            },
            _ => Err(invalid()),
        }
    }
}

impl Extent {
    fn parse(text: &str) -> Option<Self> {
        let is_name = |name: &str| !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c.is_control());
        let (name, key) = text.split_once('/').map_or((text, None), |(name, key)| (name, Some(key)));
        if !is_name(name) {
            return None;
        }
        match (name, key) {
            (REPORTS, None) => Some(Self::Reports),
            (REPORTS, Some(report)) => {
                let report = percent_decode_str(report).decode_utf8().ok()?;
                is_name(&report).then(|| Self::Report(report.into_owned()))
            }
            (name, None) => Some(Self::Collection(name.to_owned())),
            // A slash in a key is encoded, as in paths.
            (_, Some(key)) if key.contains('/') => None,
            (name, Some(key)) => {
                let key = percent_decode_str(key).decode_utf8().ok()?;
                Some(Self::Aggregate(name.to_owned(), Key::parse(&key).ok()?))
            }
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(extent) => write!(f, "read{extent}"),
            Self::Write(extent) => write!(f, "write{extent}"),
            Self::Operate => f.write_str("operate"),
        }
    }
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => Ok(()),
            Self::Collection(name) => write!(f, ":{name}"),
            Self::Aggregate(name, key) => write!(f, ":{name}/{}", utf8_percent_encode(key.as_str(), PATH_SEGMENT)),
            Self::Reports => write!(f, ":{REPORTS}"),
            Self::Report(name) => write!(f, ":{REPORTS}/{}", utf8_percent_encode(name, PATH_SEGMENT)),
        }
    }
}

impl fmt::Display for InvalidScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for InvalidScope {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_read_as_it_is_written() {
        for text in [
            "read",
            "write",
            "operate",
            "read:persons",
            "write:carts",
            "read:carts/0193b2c4-1f6e-7000-8000-000000000000",
            "write:accounts/a%2Fb%2Cc",
            "read:locations/S%C3%A3o%20Paulo",
            "read:reports",
            "read:reports/carts.csv",
        ] {
            assert_eq!(text.parse::<Scope>().unwrap().to_string(), text);
        }
        let key = Key::parse("a/b").unwrap();
        assert_eq!("read:x/a%2fb".parse(), Ok(Scope::Read(Extent::Aggregate("x".to_owned(), key))));
    }

    #[test]
    fn what_is_no_scope_is_rejected_with_what_was_expected() {
        for text in [
            "",
            "all",
            "Read",
            "read:",
            "read:/x",
            "read:carts/",
            "read:carts/a/b",
            "read:carts/..",
            "operate:persons",
            "read:carts/%ff",
            "read: persons",
            "read persons",
            "read:reports/",
            ":persons",
            "admin:persons",
        ] {
            let error = text.parse::<Scope>().expect_err(text).to_string();
            assert!(error.contains("expected read, write or operate"), "{error}");
        }
        let error = "write:reports/popular-items".parse::<Scope>().unwrap_err().to_string();
        assert!(error.contains("reports cannot be written"), "{error}");
    }
}
