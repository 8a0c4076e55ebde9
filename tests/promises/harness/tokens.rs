//! A file of tokens, changed by the program's own tasks.

use std::path::{Path, PathBuf};

use duality::Settings;
use tempfile::TempDir;

use super::{App, Process};

/// A file of tokens in a directory of its own.
pub(crate) struct TokenFile {
    _directory: TempDir,
    pub(crate) path: PathBuf,
}

/// A token, as its holder has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token(pub(crate) String);

impl Token {
    /// The value of its header.
    pub(crate) fn bearer(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// Whether a service knows it: the index, which everybody gets, says whose token the request has.
    pub(crate) fn is_in_force(&self, app: &App) -> bool {
        let headers = [("Authorization", self.bearer()), ("Accept", "application/json".to_owned())];
        let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
        app.client().request("GET", "/", &headers, None).json().get("token").is_some()
    }
}

impl TokenFile {
    /// A file in which nothing is yet.
    pub(crate) fn new() -> Self {
        let directory = crate::harness::directory();
        let path = directory.path().join("duality.tokens");
        Self { _directory: directory, path }
    }

    /// Makes a token with these scopes, separated by commas.
    #[track_caller]
    pub(crate) fn add(&self, name: &str, scopes: &str) -> Token {
        self.add_with(name, &["--scope", scopes])
    }

    #[track_caller]
    pub(crate) fn add_with(&self, name: &str, flags: &[&str]) -> Token {
        let (code, out, log) = self.run(&[&["new", name], flags].concat());
        assert_eq!((code, log.as_str()), (0, ""), "{out}");
        Token(out.trim_end().to_owned())
    }

    #[track_caller]
    pub(crate) fn revoke(&self, name: &str) {
        let (code, out, log) = self.run(&["revoke", name]);
        assert_eq!((code, log.as_str()), (0, ""), "{out}");
    }

    /// Runs `duality token`, and returns its exit code, its output, and what it logs.
    pub(crate) fn run(&self, task: &[&str]) -> (i32, String, String) {
        let path = self.path.to_str().unwrap();
        let output = Process::output(Path::new("unused.db"), &[&["--tokens", path, "token"], task].concat());
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    /// Starts a service that uses the file, which it reads often.
    pub(crate) fn serve(&self, change: impl FnOnce(&mut Settings)) -> App {
        App::with(|settings| {
            settings.tokens = Some(self.path.clone());
            settings.poll_interval = std::time::Duration::from_millis(20);
            change(settings);
        })
    }
}
