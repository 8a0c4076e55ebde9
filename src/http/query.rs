//! Query parameters: each handler declares a struct whose members are the parameters that it supports.

use std::ops::RangeInclusive;

use actix_web::web;
use actix_web_lab::extract;
use serde::de::{Deserialize, DeserializeOwned, Deserializer};

use super::problem::{Kind, Problem};
use crate::access::redaction::without_secrets;
use crate::domain::json::member_names;

/// The parameters of a route that has none.
#[derive(serde::Deserialize)]
pub(super) struct NoParams {}

/// The value of a parameter; the last one, if a client repeats it. An empty value counts as absent.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Last(Option<String>);

impl<'de> Deserialize<'de> for Last {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut values: Vec<String> = Vec::deserialize(deserializer)?;
        Ok(Self(values.pop().filter(|value| !value.is_empty())))
    }
}

impl Last {
    pub(super) fn as_str(&self) -> Option<&str> {
        self.0.as_deref()
    }

    /// The value as a number within a range. `name` is the name of the parameter, for the error.
    pub(super) fn number(&self, name: &str, range: RangeInclusive<u64>) -> Result<Option<u64>, Problem> {
        self.as_str().map(|text| number(name, text, range)).transpose()
    }
}

/// Parses a number within a range.
pub(super) fn number(name: &str, text: &str, range: RangeInclusive<u64>) -> Result<u64, Problem> {
    text.parse().ok().filter(|number| range.contains(number)).ok_or_else(|| {
        let (least, most) = (range.start(), range.end());
        let end = if *most < i64::MAX.unsigned_abs() { format!(" to {most}") } else { String::new() };
        let detail = format!("{name}: expected a whole number from {least}{end}, got {text:?}");
        Problem::new(Kind::MalformedRequest, detail)
    })
}

/// Parses a query into the struct that declares its parameters.
///
/// # Errors
/// The query has a parameter that the struct does not declare, or cannot be parsed.
pub(super) fn parse<T: DeserializeOwned>(query: &str) -> Result<T, Problem> {
    // Most requests have none.
    if !query.is_empty() {
        let known = member_names::<T>().unwrap_or_default();
        if !has_names_of(query, known) {
            pairs(query, known)?;
        }
    }
    extract::Query::<T>::from_query(query).map(extract::Query::into_inner).map_err(|error| unreadable(&error))
}

/// Whether all names of a query are these, as they are written: thousands of keys are not decoded for that.
fn has_names_of(query: &str, known: &[&str]) -> bool {
    names(query).all(|name| known.contains(&name))
}

/// How often a query has a parameter whose name is not encoded, at least. It decodes nothing.
pub(super) fn least_count(query: &str, name: &str) -> usize {
    names(query).filter(|written| *written == name).count()
}

/// The names in a query, as they are written.
fn names(query: &str) -> impl Iterator<Item = &str> {
    query.split('&').map(|pair| pair.split_once('=').map_or(pair, |(name, _)| name))
}

/// The names and values of a query, in their order.
pub(super) fn decoded_pairs(query: &str) -> Result<Vec<(String, String)>, Problem> {
    let pairs = web::Query::<Vec<(String, String)>>::from_query(query);
    Ok(pairs.map_err(|error| unreadable(&error))?.into_inner())
}

/// The names and values of a query, in their order; no other names than the `known` ones.
pub(super) fn pairs(query: &str, known: &[&str]) -> Result<Vec<(String, String)>, Problem> {
    let pairs = decoded_pairs(query)?;
    let Some((unknown, _)) = pairs.iter().find(|(name, _)| !known.contains(&name.as_str())) else { return Ok(pairs) };
    let expected = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    let detail = format!("{unknown}: unknown query parameter; expected {expected}");
    Err(Problem::new(Kind::MalformedRequest, detail))
}

/// The names and values of the query of a stream, and remarks on those that are ignored: unknown ones, because libraries
/// add parameters of their own and any status but 200 ends an `EventSource` for good, and those `of_pages`.
pub(super) fn lenient_pairs(query: &str, known: &[&str], of_pages: &[&str]) -> Result<Lenient, Problem> {
    let pairs = decoded_pairs(query)?;
    let (pairs, ignored): (Vec<_>, Vec<_>) = pairs.into_iter().partition(|(name, _)| known.contains(&name.as_str()));
    let remark = |(name, _): &(String, String)| {
        if of_pages.contains(&name.as_str()) {
            return format!("{name}: ignored, because it is for pages (Accept: application/json)");
        }
        // A line of a stream must not end early, in whatever client.
        let name: String = without_secrets(name).chars().take(MAX_NAME).flat_map(char::escape_default).collect();
        format!("{name}: unknown query parameter, ignored; expected {}", known.join(", "))
    };
    let remarks = ignored.iter().take(MAX_REMARKS).map(remark).collect();
    Ok(Lenient { pairs, remarks })
}

/// How many parameters of a stream are remarked on.
const MAX_REMARKS: usize = 4;

/// How much of the name of an unknown parameter is repeated, in characters.
const MAX_NAME: usize = 64;

/// The query of a stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Lenient {
    pub(super) pairs: Vec<(String, String)>,
    /// ASCII text without line breaks.
    pub(super) remarks: Vec<String>,
}

/// What must hold for any query: what is accepted has the declared parameters only, and every value is there. Remarks are
/// lines of text.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn check(query: &str) {
    #[derive(Debug, Default, serde::Deserialize)]
    #[serde(default)]
    struct Params {
        key: Vec<String>,
        limit: Last,
    }
    if let Ok(Lenient { pairs, remarks }) = lenient_pairs(query, &["key"], &["limit"]) {
        assert!(pairs.iter().all(|(name, _)| name == "key") && remarks.len() <= MAX_REMARKS, "{query}");
        assert!(
            remarks.iter().all(|remark| remark.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic())),
            "{query}"
        );
    }
    let Ok(Params { key, limit }) = parse(query) else { return };
    let pairs = pairs(query, &["key", "limit"]).expect("the same query was accepted");
    let values = |name: &str| pairs.iter().filter(|pair| pair.0 == name).map(|pair| pair.1.clone()).collect::<Vec<_>>();
    assert_eq!(key, values("key"), "{query}");
    assert_eq!(limit.0, values("limit").pop().filter(|value| !value.is_empty()), "{query}");
    if let Ok(Some(number)) = limit.number("limit", 1..=10) {
        assert!((1..=10).contains(&number));
    }
}

fn unreadable(error: &dyn std::error::Error) -> Problem {
    Problem::new(Kind::MalformedRequest, format!("the query cannot be parsed: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq, serde::Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Params {
        key: Vec<String>,
        page_size: Last,
    }

    fn params(key: &[&str], page_size: Option<&str>) -> Params {
        let key = key.iter().map(|&key| key.to_owned()).collect();
        Params { key, page_size: Last(page_size.map(str::to_owned)) }
    }

    #[test]
    fn a_query_fills_the_struct_that_declares_its_parameters() {
        for (query, expected) in [
            ("", params(&[], None)),
            ("key=a", params(&["a"], None)),
            ("key=b&key=a%2Fb&key=", params(&["b", "a/b", ""], None)),
            ("pageSize=5", params(&[], Some("5"))),
            ("pageSize=5&key=a&pageSize=6", params(&["a"], Some("6"))),
            ("pageSize=5&pageSize=", params(&[], None)),
            ("pageSize=a+b%20c", params(&[], Some("a b c"))),
        ] {
            assert_eq!(parse::<Params>(query).unwrap(), expected, "{query}");
        }
    }

    #[test]
    fn an_unknown_parameter_is_rejected_with_the_known_ones() {
        let unknown = |problem: Problem| problem.to_string();
        let detail = "keys: unknown query parameter; expected key, pageSize";
        assert_eq!(unknown(parse::<Params>("key=a&keys=b").unwrap_err()), detail);
        let detail = "key: unknown query parameter; expected none";
        assert_eq!(unknown(parse::<NoParams>("key=a").map(|NoParams {}| ()).unwrap_err()), detail);
        assert!(parse::<NoParams>("").is_ok());
    }

    #[test]
    fn the_query_of_a_stream_ignores_what_it_does_not_know_and_says_so() {
        let known = ["key", "strict"];
        let unknown = |name: &str| format!("{name}: unknown query parameter, ignored; expected key, strict");
        let page = |name: &str| format!("{name}: ignored, because it is for pages (Accept: application/json)");
        for (query, pairs, remarks) in [
            ("", &[][..], vec![]),
            ("key=a&key=b", &[("key", "a"), ("key", "b")], vec![]),
            ("kye=a&strict=true", &[("strict", "true")], vec![unknown("kye")]),
            ("limit=x&wait=&key=", &[("key", "")], vec![page("limit"), page("wait")]),
            ("a%0Ab%E2%80%A8%C2%85%00c", &[], vec![unknown("a\\nb\\u{2028}\\u{85}\\u{0}c")]),
            ("&&=&", &[], vec![unknown("")]),
            (&"x".repeat(10_000), &[], vec![unknown(&"x".repeat(64))]),
            ("a&b&c&d&e&f", &[], ["a", "b", "c", "d"].map(unknown).into()),
        ] {
            let got = lenient_pairs(query, &known, &["limit", "wait"]).unwrap();
            let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            assert_eq!(got, Lenient { pairs, remarks }, "{query}");
        }
    }

    #[test]
    fn a_number_is_rejected_outside_of_its_range() {
        let number =
            |text: &str| Last(Some(text.to_owned())).number("limit", 1..=10).map_err(|error| error.to_string());
        assert_eq!(number("10"), Ok(Some(10)));
        for text in ["0", "11", "-1", "x", "1.5"] {
            assert_eq!(
                number(text),
                Err(format!("limit: expected a whole number from 1 to 10, got {text:?}")),
                "{text}"
            );
        }
        assert_eq!(Last(None).number("limit", 1..=10).unwrap(), None);
    }
}
