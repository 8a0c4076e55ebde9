//! The tasks for tokens. They change the file; a service that uses it notices.

use std::io::{self, Write as _};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use crate::access::scope::{InvalidScope, Scope};
use crate::access::token::Secret;
use crate::access::token_file::{self, TokenEntry, TokenFileError};
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::collection::Registry;
use crate::service::settings::{Settings, TokenTask};
use crate::service::task::{TaskError, TaskOutcome, print_line};

/// Why a task for tokens has no result.
#[derive(Debug, thiserror::Error)]
enum TokenTaskError {
    #[error("--tokens (DUALITY_TOKENS): expected the file of the tokens, such as --tokens duality.tokens")]
    NoFile,
    #[error(transparent)]
    File(#[from] TokenFileError),
    #[error("{0}")]
    Name(String),
    #[error("--scope: {0}")]
    Scope(#[from] InvalidScope),
    #[error(
        "--expires: expected a time from now on, as a duration such as 90d, or a date such as 2027-01-31 or \
         2027-01-31T12:00:00Z, got {0:?}"
    )]
    Expiry(String),
    #[error("there is a token named {0} already; choose another name, or take that one away: duality token revoke {0}")]
    Exists(String),
    #[error("there is no token named {0}; duality token list shows those that there are")]
    Unknown(String),
    #[error("the operating system has no random numbers")]
    Random(#[source] getrandom::Error),
}

impl From<TokenTaskError> for TaskError {
    fn from(error: TokenTaskError) -> Self {
        Self::Token(Box::new(error))
    }
}

/// Runs a task for tokens.
pub(super) fn run(task: &TokenTask, settings: &Settings, registry: &Registry) -> Result<TaskOutcome, TaskError> {
    let file = settings.tokens.as_deref().ok_or(TokenTaskError::NoFile)?;
    match task {
        TokenTask::New { name, scope, expires } => {
            let request = NewToken { name, scopes: scope, expires: expires.as_deref() };
            let token = new(file, &request, registry)?;
            if let Err(error) = print(&token) {
                // Nobody has the token, so it is not to stay in force.
                revoke(file, name)?;
                return Err(TaskError::Print(error));
            }
        }
        TokenTask::List => list(file)?,
        TokenTask::Revoke { name } => revoke(file, name)?,
    }
    Ok(TaskOutcome::Success)
}

fn print(token: &str) -> io::Result<()> {
    let mut output = io::stdout();
    writeln!(output, "{token}")?;
    output.flush()
}

/// What a new token is to be.
struct NewToken<'a> {
    name: &'a str,
    scopes: &'a [String],
    expires: Option<&'a str>,
}

/// Adds a token, and returns its text, which is kept nowhere.
fn new(file: &Path, request: &NewToken<'_>, registry: &Registry) -> Result<String, TokenTaskError> {
    token_file::check_name(request.name).map_err(TokenTaskError::Name)?;
    let scopes = request.scopes.iter().map(|scope| scope.trim().parse()).collect::<Result<Vec<Scope>, _>>()?;
    scopes.iter().try_for_each(|scope| scope.check(registry))?;
    let now = Clock::default().now();
    let expires = request.expires.map(|text| expiry(text, now)).transpose()?;
    let secret = Secret::random().map_err(TokenTaskError::Random)?;
    let name = request.name.to_owned();
    let entry = TokenEntry { name, scopes, created: now, expires, digest: secret.digest() };
    token_file::edit(file, |entries| {
        if entries.iter().any(|other| other.name == entry.name) {
            return Err(TokenTaskError::Exists(entry.name));
        }
        entries.push(entry);
        Ok(())
    })?;
    Ok(secret.reveal())
}

/// When a token ends: after a duration, or at a time of the day in UTC.
fn expiry(text: &str, now: Timestamp) -> Result<Timestamp, TokenTaskError> {
    let invalid = || TokenTaskError::Expiry(text.to_owned());
    let after = |duration: Duration| {
        let milliseconds = i64::try_from(duration.as_millis()).ok()?;
        Some(Timestamp::from_milliseconds(now.milliseconds().checked_add(milliseconds)?))
    };
    let at = |text: &str| {
        let time = humantime::parse_rfc3339_weak(text).ok()?;
        let milliseconds = time.duration_since(UNIX_EPOCH).ok()?.as_millis();
        Some(Timestamp::from_milliseconds(i64::try_from(milliseconds).ok()?))
    };
    let expires = match humantime::parse_duration(text) {
        Ok(duration) => after(duration),
        Err(_) => at(text).or_else(|| at(&format!("{text}T00:00:00Z"))),
    };
    expires.filter(|expires| *expires > now).ok_or_else(invalid)
}

/// Prints a line for each token: its name, its times, and its scopes.
fn list(file: &Path) -> Result<(), TokenTaskError> {
    let now = Clock::default().now();
    for TokenEntry { name, scopes, created, expires, .. } in token_file::list(file)? {
        let expires = match expires {
            None => "does not expire".to_owned(),
            Some(expires) if expires <= now => format!("expired {expires}"),
            Some(expires) => format!("expires {expires}"),
        };
        let scopes: Vec<_> = scopes.iter().map(ToString::to_string).collect();
        print_line(&format!("{name:<20} created {created}  {expires:<32}  {}", scopes.join(",")));
    }
    Ok(())
}

fn revoke(file: &Path, name: &str) -> Result<(), TokenTaskError> {
    // A file that is not there is not created for this.
    token_file::list(file)?;
    token_file::edit(file, |entries| {
        let before = entries.len();
        entries.retain(|entry| entry.name != name);
        if entries.len() == before { Err(TokenTaskError::Unknown(name.to_owned())) } else { Ok(()) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_ends_after_a_duration_or_at_a_time() {
        let now: Timestamp = serde_json::from_str("\"2026-11-29T12:00:00Z\"").unwrap();
        for (text, expected) in [
            ("90d", "2027-02-27T12:00:00.000Z"),
            ("1h 30m", "2026-11-29T13:30:00.000Z"),
            ("2027-01-31", "2027-01-31T00:00:00.000Z"),
            ("2027-01-31T12:00:00Z", "2027-01-31T12:00:00.000Z"),
            ("2027-01-31 12:00:00", "2027-01-31T12:00:00.000Z"),
        ] {
            assert_eq!(expiry(text, now).unwrap().to_string(), expected, "{text}");
        }
        for text in ["", "0s", "soon", "2026-11-29", "2020-01-01", "31.1.2027"] {
            let error = expiry(text, now).expect_err(text).to_string();
            assert!(error.contains("--expires") && error.contains("90d"), "{error}");
        }
    }
}
