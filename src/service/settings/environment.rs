//! Settings in the environment: empty ones, unknown ones, and errors that name the variable.

use std::ffi::OsString;

use clap::error::{ContextKind, ErrorKind};
use clap::{Arg, Command, Error};

use super::range::Range;
use crate::http::nearest::edits;

/// What the names of all variables begin with.
const PREFIX: &str = "DUALITY_";

/// Takes an empty variable for one that is not set: Docker Compose passes variables without a value that way.
pub(super) fn ignore_empty(command: Command) -> Command {
    command.mut_args(|arg| {
        let is_empty = arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
        if is_empty { arg.env(None::<&'static str>) } else { arg }
    })
}

/// An error that names the variable that an invalid value is from, if it is from one, and the range.
pub(super) fn explain(error: Error, command: &mut Command) -> Error {
    let context = |kind| error.get(kind).map(ToString::to_string);
    let (ErrorKind::ValueValidation | ErrorKind::InvalidValue, Some(name), Some(value)) =
        (error.kind(), context(ContextKind::InvalidArg), context(ContextKind::InvalidValue))
    else {
        return error;
    };
    let Some(arg) = command.get_arguments().find(|arg| arg.to_string() == name) else { return error };
    let source = source(arg, &value);
    let expected = match (arg.get_long().and_then(Range::of), std::error::Error::source(&error)) {
        (Some(range), _) => format!("expected {}", range.expected()),
        (None, _) if !arg.get_action().takes_values() => "expected true or false".to_owned(),
        (None, Some(why)) => why.to_string(),
        (None, None) => match arg.get_long() {
            Some("database") => "expected the name of a file, or :memory:".to_owned(),
            Some("spool") => "expected the name of a directory".to_owned(),
            _ => "expected a value".to_owned(),
        },
    };
    command.error(ErrorKind::ValueValidation, format!("{source}: {expected}, got {value:?}"))
}

/// Where the value of a setting is from: the flag, or the variable if that has the same value, or it as an element.
fn source(arg: &Arg, value: &str) -> String {
    let has_element = |found: &OsString| match (arg.get_value_delimiter(), found.to_str()) {
        (Some(delimiter), Some(list)) => list.split(delimiter).any(|element| element == value),
        _ => false,
    };
    let is_found = |found: OsString| found == *value || has_element(&found);
    let variable = arg.get_env().filter(|name| std::env::var_os(name).is_some_and(is_found));
    match (variable, arg.get_long()) {
        (Some(variable), _) => variable.to_string_lossy().into_owned(),
        (None, Some(flag)) => format!("--{flag}"),
        (None, None) => arg.to_string(),
    }
}

/// A line for each variable that looks like a setting and is none, with the setting whose name is nearest.
///
/// They are not errors: Kubernetes sets `DUALITY_PORT` in all containers if there is a service with the name `duality`.
pub(super) fn unknown(command: &Command, variables: impl Iterator<Item = (OsString, OsString)>) -> Vec<String> {
    let known: Vec<&str> = command.get_arguments().filter_map(|arg| arg.get_env()?.to_str()).collect();
    let names = variables.filter_map(|(name, _)| name.into_string().ok());
    let mut unknown: Vec<_> =
        names.filter(|name| name.starts_with(PREFIX) && !known.contains(&name.as_str())).collect();
    unknown.sort();
    let line = |name: &String| match nearest(name, &known) {
        Some(nearest) => format!("{name} in the environment is no setting; did you mean {nearest}?"),
        None => format!("{name} in the environment is no setting"),
    };
    unknown.iter().map(line).collect()
}

fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    known.iter().copied().min_by_key(|known| edits(name, known)).filter(|known| edits(name, known) <= 4)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn an_unknown_variable_is_named_with_the_nearest_setting() {
        let variables = ["DUALITY_LISTNE", "DUALITY_PORT", "DUALITY_SERVICE_HOST_HTTP", "DUALITY_LISTEN", "OTHER"];
        let variables = variables.map(|name| (OsString::from(name), OsString::from("x")));
        let lines = unknown(&super::super::Settings::command(), variables.into_iter());
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0], "DUALITY_LISTNE in the environment is no setting; did you mean DUALITY_LISTEN?");
        assert!(lines[1].starts_with("DUALITY_PORT in"));
        assert_eq!(lines[2], "DUALITY_SERVICE_HOST_HTTP in the environment is no setting");
    }
}
