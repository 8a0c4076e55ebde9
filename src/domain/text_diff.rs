//! The merge patch between two states that are JSON text, without parsing what they have in common.
//!
//! Two states of one aggregate are written by the same code, so nearly all of their members are equal byte for byte, in the
//! same order. They are compared side by side, in one pass, and nothing is allocated for a member that is the same.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

/// The smallest merge patch from one object to another; `None` if they are equal. A changed array is included whole.
///
/// # Errors
/// A text is not an object as serde writes it, without spaces and without escapes in names; or an object whose
/// members differ has a name twice.
pub(super) fn diff(before: &str, after: &str) -> Result<Option<String>, NotCompact> {
    diff_objects(&mut Cursor::new(before), &mut Cursor::new(after), &mut Vec::new())
}

/// A text that has to be parsed instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotCompact;

/// Both are at the first byte of an object, and after its last one then. `names` are those of the objects around it, and
/// afterwards as well.
fn diff_objects<'a>(
    old: &mut Cursor<'a>,
    new: &mut Cursor<'a>,
    names: &mut Vec<&'a str>,
) -> Result<Option<String>, NotCompact> {
    old.expect(b'{')?;
    new.expect(b'{')?;
    let mut patch = Patch::default();
    let outer = names.len();
    loop {
        match (old.next_name()?, new.next_name()?) {
            (Some(was), Some(name)) if was == name => {
                names.push(name);
                patch.compare(name, old, new, names)?;
            }
            (was, name) => {
                let (was, name) = (Rest { name: was, cursor: old }, Rest { name, cursor: new });
                let rest = patch.compare_rest(was, name, names)?;
                let patch = patch.finish();
                let same = &names[outer..];
                if patch.is_some() && !(are_unique(same, &rest.old) && are_unique(same, &rest.new)) {
                    return Err(NotCompact);
                }
                names.truncate(outer);
                return Ok(patch);
            }
        }
    }
}

/// The members of a patch so far, each with a comma behind it.
#[derive(Default)]
struct Patch {
    removed: String,
    changed: String,
}

/// The members of an object from one on; none if there is no name.
struct Rest<'c, 'a> {
    name: Option<&'a str>,
    cursor: &'c mut Cursor<'a>,
}

/// The names of such members.
struct RestNames<'a> {
    old: Vec<&'a str>,
    new: Vec<&'a str>,
}

/// Up to so many names are compared with each other, which takes less time than a set of them.
const FEW: usize = 8;

/// Whether the names of an object, in two parts, have none twice.
fn are_unique(names: &[&str], rest: &[&str]) -> bool {
    if names.len() + rest.len() <= FEW {
        let all = || names.iter().chain(rest);
        return all().enumerate().all(|(place, name)| all().take(place).all(|other| other != name));
    }
    let mut seen = HashSet::with_capacity(names.len() + rest.len());
    names.iter().chain(rest).all(|name| seen.insert(*name))
}

impl Patch {
    /// Compares the values of a member.
    fn compare<'a>(
        &mut self,
        name: &str,
        old: &mut Cursor<'a>,
        new: &mut Cursor<'a>,
        names: &mut Vec<&'a str>,
    ) -> Result<(), NotCompact> {
        if old.peek() == Some(b'{') && new.peek() == Some(b'{') {
            if let Some(nested) = diff_objects(old, new, names)? {
                self.change(name, &nested);
            }
            return Ok(());
        }
        let was = old.value()?;
        if new.skip(was) {
            return Ok(());
        }
        let value = new.value()?;
        if !is_equal(was, value) {
            self.change(name, value);
        }
        Ok(())
    }

    /// Compares members that are not the same, or not in the same order.
    fn compare_rest<'a>(
        &mut self,
        old: Rest<'_, 'a>,
        new: Rest<'_, 'a>,
        names: &mut Vec<&'a str>,
    ) -> Result<RestNames<'a>, NotCompact> {
        let mut rest = RestNames { old: Vec::new(), new: Vec::new() };
        let mut values = HashMap::new();
        let Rest { name: mut next, cursor } = old;
        while let Some(name) = next {
            values.insert(name, cursor.value()?);
            rest.old.push(name);
            next = cursor.next_name()?;
        }
        let Rest { name: mut next, cursor } = new;
        while let Some(name) = next {
            rest.new.push(name);
            match values.remove(name) {
                Some(was) => self.compare(name, &mut Cursor::new(was), cursor, names)?,
                None => self.change(name, cursor.value()?),
            }
            next = cursor.next_name()?;
        }
        for name in rest.old.iter().filter(|name| values.contains_key(**name)) {
            push(&mut self.removed, name, "null");
        }
        Ok(rest)
    }

    fn change(&mut self, name: &str, value: &str) {
        push(&mut self.changed, name, value);
    }

    fn finish(self) -> Option<String> {
        let Self { removed, changed } = self;
        if removed.is_empty() && changed.is_empty() {
            return None;
        }
        let mut object = String::with_capacity(removed.len() + changed.len() + 1);
        object.push('{');
        object.push_str(&removed);
        object.push_str(&changed);
        // The last comma.
        object.pop();
        object.push('}');
        Some(object)
    }
}

fn push(members: &mut String, name: &str, value: &str) {
    members.reserve(name.len() + value.len() + 2);
    members.extend([name, ":", value, ","]);
}

/// Whether texts that differ have the same value: a number that is written in another way, or an array of objects whose
/// members have another order.
fn is_equal(was: &str, value: &str) -> bool {
    let is_string = |text: &str| text.starts_with('"');
    if is_string(was) || is_string(value) || (is_integer(was) && is_integer(value)) {
        return was == value;
    }
    let parsed = |text: &str| serde_json::from_str::<Value>(text).ok();
    // Two that cannot be read are not known to be equal.
    parsed(was).is_some_and(|was| parsed(value) == Some(was))
}

/// Whether a text is an integer that is written in no other way.
fn is_integer(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text).as_bytes();
    let is_canonical = text == "0" || digits.first().is_some_and(|digit| *digit != b'0');
    is_canonical && digits.len() <= EXACT_DIGITS && digits.iter().all(u8::is_ascii_digit)
}

/// Integers of more digits may be read as the same number.
const EXACT_DIGITS: usize = 15;

/// A position in compact JSON text.
struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn expect(&mut self, byte: u8) -> Result<(), NotCompact> {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found.then_some(()).ok_or(NotCompact)
    }

    /// The name of the next member of an object with its quotes, up to its value. `None` after the end of the object.
    fn next_name(&mut self) -> Result<Option<&'a str>, NotCompact> {
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(None);
        }
        if self.peek() == Some(b',') {
            self.at += 1;
        }
        let start = self.at;
        let length = self.text.as_bytes()[start..].iter().skip(1).position(|byte| matches!(byte, b'"' | b'\\'));
        self.expect(b'"')?;
        self.at += length.ok_or(NotCompact)?;
        self.expect(b'"')?;
        let name = self.text.get(start..self.at).ok_or(NotCompact)?;
        self.expect(b':')?;
        Ok(Some(name))
    }

    /// Skips exactly this value of a member, if it is the next one.
    fn skip(&mut self, value: &str) -> bool {
        let rest = &self.text.as_bytes()[self.at..];
        let is_next = rest.starts_with(value.as_bytes()) && matches!(rest.get(value.len()), Some(b',' | b'}'));
        self.at += if is_next { value.len() } else { 0 };
        is_next
    }

    /// The next value.
    fn value(&mut self) -> Result<&'a str, NotCompact> {
        let start = self.at;
        let mut depth = 0_usize;
        loop {
            match self.peek() {
                Some(b'"') => self.skip_string()?,
                Some(b'{' | b'[') => {
                    depth += 1;
                    self.at += 1;
                    continue;
                }
                Some(b'}' | b']') if depth > 0 => {
                    depth -= 1;
                    self.at += 1;
                }
                Some(b' ' | b'\t' | b'\n' | b'\r') | None => return Err(NotCompact),
                Some(_) => {
                    // Numbers, `true`, `false`, and between values `,` and `:`.
                    self.at += 1;
                    if !matches!(self.peek(), Some(b',' | b'}' | b']') | None) {
                        continue;
                    }
                }
            }
            if depth == 0 {
                return self.text.get(start..self.at).ok_or(NotCompact);
            }
        }
    }

    fn skip_string(&mut self) -> Result<(), NotCompact> {
        self.at += 1;
        loop {
            let rest = self.text.as_bytes().get(self.at..).ok_or(NotCompact)?;
            let length = memchr::memchr2(b'"', b'\\', rest).ok_or(NotCompact)?;
            let is_end = rest[length] == b'"';
            // The byte after a backslash is not the end.
            self.at += length + if is_end { 1 } else { 2 };
            if is_end {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, json};

    use super::*;
    use crate::domain::merge_patch;

    #[test]
    fn a_patch_has_what_differs() {
        for (before, after, patch) in [
            (r#"{}"#, r#"{}"#, None),
            (r#"{"a":1}"#, r#"{"a":1}"#, None),
            (r#"{"a":1}"#, r#"{"a":12}"#, Some(r#"{"a":12}"#)),
            (r#"{"a":12}"#, r#"{"a":1}"#, Some(r#"{"a":1}"#)),
            (r#"{"a":1}"#, r#"{"a":-1}"#, Some(r#"{"a":-1}"#)),
            (r#"{"a":100}"#, r#"{"a":1e2}"#, Some(r#"{"a":1e2}"#)),
            (r#"{"a":1.0}"#, r#"{"a":1.00}"#, None),
            (r#"{"a":36893488147419103232}"#, r#"{"a":36893488147419103233}"#, None),
            (r#"{"a":1}"#, r#"{"a":1,"b":"x"}"#, Some(r#"{"b":"x"}"#)),
            (r#"{"a":1,"b":"x"}"#, r#"{"b":"x"}"#, Some(r#"{"a":null}"#)),
            (r#"{"a":1,"b":2}"#, r#"{"b":2,"a":1}"#, None),
            (r#"{"a":1,"b":2,"c":3}"#, r#"{"b":3,"d":4}"#, Some(r#"{"a":null,"c":null,"b":3,"d":4}"#)),
            (r#"{"a":{"b":{"c":1,"d":2}}}"#, r#"{"a":{"b":{"c":1,"d":3}}}"#, Some(r#"{"a":{"b":{"d":3}}}"#)),
            (r#"{"a":{"b":1},"c":{}}"#, r#"{"c":{},"a":{"b":2}}"#, Some(r#"{"a":{"b":2}}"#)),
            (r#"{"a":{}}"#, r#"{"a":[]}"#, Some(r#"{"a":[]}"#)),
            (r#"{"a":[1,{"b":2}]}"#, r#"{"a":[1,{"b":3}]}"#, Some(r#"{"a":[1,{"b":3}]}"#)),
            (r#"{"a":[{"b":1,"c":2}]}"#, r#"{"a":[{"c":2,"b":1}]}"#, None),
            (r#"{"a":"x\\\"}{","b":1}"#, r#"{"a":"x\\\"}{","b":2}"#, Some(r#"{"b":2}"#)),
            (r#"{"a":true}"#, r#"{"a":false}"#, Some(r#"{"a":false}"#)),
            (r#"{"a":"1"}"#, r#"{"a":1}"#, Some(r#"{"a":1}"#)),
            (r#"{"a":"é","b":1}"#, r#"{"a":"è","b":1}"#, Some(r#"{"a":"è"}"#)),
        ] {
            assert_eq!(diff(before, after).unwrap().as_deref(), patch, "{before} {after}");
        }
    }

    #[test]
    fn what_serde_would_not_write_is_rejected() {
        for text in [
            "",
            "[]",
            "1",
            "{",
            r#"{"a""#,
            r#"{"a":"#,
            r#"{"a":1"#,
            r#"{"a":"x"#,
            r#"{ "a":1}"#,
            r#"{"a": 1}"#,
            r#"{"a":1 }"#,
            r#"{"a\n":1}"#,
            "{\"a\":{\"b\":2,\n\"c\":3}}",
            r#"{a:1}"#,
        ] {
            assert_eq!(diff(text, r#"{"a":{"b":1}}"#), Err(NotCompact), "{text}");
            assert_eq!(diff(r#"{"a":{"b":1}}"#, text), Err(NotCompact), "{text}");
        }
    }

    #[test]
    fn what_is_too_deep_to_be_read_differs_unless_it_is_the_same_text() {
        let deep = |number: u8| format!("{{\"a\":{}{number}{}}}", "[".repeat(130), "]".repeat(130));
        assert_eq!(diff(&deep(1), &deep(2)), Ok(Some(deep(2))));
        assert_eq!(diff(&deep(1), &deep(1)), Ok(None));
    }

    #[test]
    fn an_object_that_differs_and_has_a_name_twice_is_rejected() {
        for (before, after) in [
            (r#"{"a":1,"a":2}"#, r#"{"a":3,"a":2}"#),
            (r#"{"a":1,"b":1,"a":2}"#, r#"{"a":1,"b":1}"#),
            (r#"{"a":1}"#, r#"{"a":1,"b":2,"b":3}"#),
            (r#"{"c":{"a":{},"a":{"b":1}}}"#, r#"{"c":{"a":{},"a":{"b":2}}}"#),
        ] {
            assert_eq!(diff(before, after), Err(NotCompact), "{before} {after}");
        }
        let patch = diff(r#"{"c":{"a":1,"a":2},"a":{"a":1}}"#, r#"{"c":{"a":1,"a":2},"a":{"a":2}}"#);
        assert_eq!(patch, Ok(Some(r#"{"a":{"a":2}}"#.to_owned())));
    }

    fn states() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            (-2..3_i32).prop_map(|number| json!(f64::from(number) / 2.0)),
            (0..20).prop_map(Value::from),
            r#"[ab"\\{}\[\],:é]{0,3}"#.prop_map(Value::from),
        ];
        let members = |value: BoxedStrategy<Value>| {
            prop::collection::vec(("[abc]", value), 0..4)
                .prop_map(|members| Value::from(members.into_iter().collect::<Map<_, _>>()))
        };
        let nested = leaf.prop_recursive(3, 24, 4, move |inner| {
            prop_oneof![prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from), members(inner)]
        });
        members(nested.boxed())
    }

    proptest! {
        #[test]
        fn texts_differ_as_their_values_do(before in states(), after in states()) {
            let patch = diff(&before.to_string(), &after.to_string()).unwrap();
            let patch: Option<Value> = patch.map(|patch| serde_json::from_str(&patch).unwrap());
            prop_assert_eq!(patch, merge_patch::diff(&before, &after));
        }

        #[test]
        fn any_two_texts_are_compared_without_a_panic(before in r#"[{}\[\]",:\\a1é ]{0,12}"#, after in r#"[{}\[\]",:\\a1é ]{0,12}"#) {
            let _ = diff(&before, &after);
        }
    }
}
