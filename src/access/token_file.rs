//! The file with the tokens of a service: names, scopes, times, and what is kept of the secrets.

use std::collections::HashSet;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::scope::Scope;
use super::token::TokenDigest;
use crate::domain::clock::Timestamp;
use crate::domain::metadata::SERVICE;

/// The longest name of a token, in bytes.
const MAX_NAME: usize = 64;

/// The largest file that is read, in bytes: some ten thousand tokens.
const MAX_BYTES: u64 = 4 << 20;

/// A new file is for its owner only.
const MODE: u32 = 0o600;

/// What nobody but the owner may do: write for the group, read and write for others.
const FORBIDDEN_MODE: u32 = 0o026;

/// A token, as it is in the file.
#[derive(Clone)]
pub(crate) struct TokenEntry {
    pub(crate) name: String,
    pub(crate) scopes: Vec<Scope>,
    pub(crate) created: Timestamp,
    /// `None` for a token that stays until it is taken away.
    pub(crate) expires: Option<Timestamp>,
    pub(crate) digest: TokenDigest,
}

/// Why a file of tokens cannot be used. No message shows what is in the file, because it might be a token.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenFileError {
    #[error("the token file {} cannot be read", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("the token file {} cannot be written", path.display())]
    Unwritable { path: PathBuf, source: io::Error },
    #[error(
        "the token file {} can be read or written by others (mode {mode:04o}); to keep it to its owner: chmod 600 {}",
        path.display(), path.display()
    )]
    TooOpen { path: PathBuf, mode: u32 },
    #[error(
        "the token file {} belongs to the user {owner}, who can change it; to give it to the user of this process: \
         chown {user} {}",
        path.display(), path.display()
    )]
    Foreign { path: PathBuf, owner: u32, user: u32 },
    #[error("the token file {} is invalid: {why}", path.display())]
    Invalid { path: PathBuf, why: String },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenFile {
    tokens: Vec<WrittenToken>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenToken {
    name: String,
    scopes: Vec<String>,
    created: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires: Option<Timestamp>,
    sha256: String,
}

/// The text of a file that only its owner can change.
///
/// # Errors
/// It cannot be read, is not a file, belongs to somebody else, or others can read or write it.
pub(super) fn text(path: &Path) -> Result<String, TokenFileError> {
    let file = open(OpenOptions::new().read(true), path);
    read(&file.map_err(|source| TokenFileError::Unreadable { path: path.to_owned(), source })?, path)
}

/// Opens a file without a wait: that for the other end of a pipe would have no end.
fn open(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    options.custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path)
}

fn read(file: &File, path: &Path) -> Result<String, TokenFileError> {
    let unreadable = |source| TokenFileError::Unreadable { path: path.to_owned(), source };
    // Of what is open: the path may have another file by now.
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(TokenFileError::Invalid { path: path.to_owned(), why: "it is not a file".to_owned() });
    }
    check_owner(metadata.uid(), path)?;
    let mode = metadata.mode() & 0o7777;
    if mode & FORBIDDEN_MODE != 0 {
        return Err(TokenFileError::TooOpen { path: path.to_owned(), mode });
    }
    if metadata.len() > MAX_BYTES {
        let why = format!("it has more than {MAX_BYTES} bytes");
        return Err(TokenFileError::Invalid { path: path.to_owned(), why });
    }
    let mut text = String::new();
    file.take(MAX_BYTES).read_to_string(&mut text).map_err(unreadable)?;
    Ok(text)
}

/// A file of another user is one into which that user can write tokens. Root reads that of any user, because what its tasks
/// make belongs to the owner of the directory.
fn check_owner(owner: u32, path: &Path) -> Result<(), TokenFileError> {
    let user = rustix::process::geteuid();
    if user.is_root() || [0, user.as_raw()].contains(&owner) {
        return Ok(());
    }
    Err(TokenFileError::Foreign { path: path.to_owned(), owner, user: user.as_raw() })
}

/// The tokens in the text of a file. An empty one is not a file without tokens: somebody may be about to write it.
///
/// # Errors
/// Says where it is wrong, or names the token.
pub(super) fn parse(text: &str, path: &Path) -> Result<Vec<TokenEntry>, TokenFileError> {
    let invalid = |why| TokenFileError::Invalid { path: path.to_owned(), why };
    if text.trim().is_empty() {
        return Err(invalid("it is empty; `duality token new` writes it".to_owned()));
    }
    // The error itself would repeat a part of the text.
    let written: WrittenFile = serde_json::from_str(text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        invalid(format!("line {line}, column {column} is not what `duality token new` writes"))
    })?;
    let (mut names, mut secrets) = (HashSet::new(), HashSet::new());
    for WrittenToken { name, sha256, .. } in &written.tokens {
        if !names.insert(name) || !secrets.insert(sha256) {
            return Err(invalid("it has a name or a secret twice".to_owned()));
        }
    }
    written.tokens.iter().map(|token| entry(token).map_err(invalid)).collect()
}

fn entry(WrittenToken { name, scopes, created, expires, sha256 }: &WrittenToken) -> Result<TokenEntry, String> {
    check_name(name)?;
    let scopes = scopes.iter().map(|scope| scope.parse()).collect::<Result<Vec<Scope>, _>>();
    let scopes = scopes.map_err(|_| format!("the token {name} has a scope that does not exist"))?;
    let digest = TokenDigest::parse(sha256)
        .ok_or_else(|| format!("the member sha256 of the token {name} is not 64 lower-case hexadecimal digits"))?;
    Ok(TokenEntry { name: name.clone(), scopes, created: *created, expires: *expires, digest })
}

/// Checks the name of a token, which stands in logs and in the metadata of events.
///
/// # Errors
/// What was expected.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    let is_valid = |c: char| c.is_ascii_alphanumeric() || "._@-".contains(c);
    if name == SERVICE {
        return Err(format!("{SERVICE} is the name of the service itself, as the actor of what it writes"));
    }
    if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(is_valid) {
        return Err(format!("the name of a token has 1 to {MAX_NAME} ASCII letters, digits, and `.`, `_`, `@`, `-`"));
    }
    Ok(())
}

/// Changes the tokens in a file, which is created if it is missing, and may be empty. Whoever reads it meanwhile sees the file before or
/// after; other processes that change it wait.
///
/// # Errors
/// The file cannot be read or written, or `change` fails. Then the file is as it was.
pub(crate) fn edit<T, E: From<TokenFileError>>(
    path: &Path,
    change: impl FnOnce(&mut Vec<TokenEntry>) -> Result<T, E>,
) -> Result<T, E> {
    let unwritable = |source| TokenFileError::Unwritable { path: path.to_owned(), source };
    let (file, path) = lock(path).map_err(unwritable)?;
    let text = read(&file, &path)?;
    // One that has just been created is empty.
    let mut entries = if text.is_empty() { Vec::new() } else { parse(&text, &path)? };
    let changed = change(&mut entries)?;
    let owner = if text.is_empty() { of_new(&path) } else { of_old(&file) }.map_err(unwritable)?;
    replace(&path, &entries, owner).map_err(unwritable)?;
    drop(file);
    Ok(changed)
}

/// All tokens of a file.
///
/// # Errors
/// The file cannot be read.
pub(crate) fn list(path: &Path) -> Result<Vec<TokenEntry>, TokenFileError> {
    parse(&text(path)?, path)
}

/// Opens the file that has the name once no other process changes it. A link is followed.
fn lock(path: &Path) -> io::Result<(File, PathBuf)> {
    loop {
        let file = open(OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(MODE), path)?;
        file.lock()?;
        // Another process may have put a new file into its place while this one waited.
        let path = path.canonicalize()?;
        let (held, named) = (file.metadata()?, path.metadata()?);
        if (held.dev(), held.ino()) == (named.dev(), named.ino()) {
            return Ok((file, path));
        }
    }
}

/// To whom a file belongs.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Owner {
    user: u32,
    group: u32,
}

impl Owner {
    fn of(file: &Metadata) -> Self {
        Self { user: file.uid(), group: file.gid() }
    }
}

/// The owner of a file stays, whoever changes it: it is the user of the service.
fn of_old(file: &File) -> io::Result<Owner> {
    Ok(Owner::of(&file.metadata()?))
}

/// A file that root creates belongs to the owner of its directory, as everything that the service uses.
fn of_new(path: &Path) -> io::Result<Owner> {
    let like = if rustix::process::geteuid().is_root() { path.parent().unwrap_or(path) } else { path };
    Ok(Owner::of(&like.metadata()?))
}

/// Puts a file with these tokens into the place of another one, whose mode it keeps.
fn replace(path: &Path, entries: &[TokenEntry], owner: Owner) -> io::Result<()> {
    let tokens = entries.iter().map(|entry| WrittenToken {
        name: entry.name.clone(),
        scopes: entry.scopes.iter().map(ToString::to_string).collect(),
        created: entry.created,
        expires: entry.expires,
        sha256: entry.digest.to_string(),
    });
    let text = serde_json::to_string_pretty(&WrittenFile { tokens: tokens.collect() })? + "\n";
    let directory = path.parent().unwrap_or(Path::new("."));
    // A temporary file is for its owner only.
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(text.as_bytes())?;
    if owner != of_old(file.as_file())? {
        fchown(file.as_file(), Some(owner.user), Some(owner.group))?;
    }
    file.as_file().set_permissions(path.metadata()?.permissions())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    File::open(directory)?.sync_all()
}

impl TokenEntry {
    pub(super) fn is_expired(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    /// Whether another entry grants the same to the holder of the same secret.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.name == other.name
            && self.scopes == other.scopes
            && self.expires == other.expires
            && self.digest.is(&other.digest)
    }
}
