//! The tokens that are in force.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::grant::Grant;
use super::permissions::Permissions;
use super::tickets::Tickets;
use super::token::{Secret, TokenDigest};
use super::token_file::{self, TokenEntry, TokenFileError};
use crate::domain::clock::Clock;
use crate::domain::collection::Registry;
use crate::domain::error_chain::ErrorChain;

/// The tokens of a service, as its file had them when it could last be read.
pub(crate) struct Tokens {
    path: PathBuf,
    registry: Arc<Registry>,
    clock: Arc<Clock>,
    table: RwLock<Table>,
    tickets: Tickets,
    reading: Mutex<Reading>,
}

/// All grants, sorted by the indexes of their digests.
#[derive(Default)]
struct Table(Vec<Arc<Grant>>);

/// What came of the last attempt to read the file.
struct Reading {
    /// The text from which the table was made.
    text: String,
    /// Why it cannot be read now.
    failure: Option<String>,
}

impl Tokens {
    /// Reads the file.
    ///
    /// # Errors
    /// The file cannot be used.
    pub(crate) fn open(path: &Path, registry: &Arc<Registry>, clock: &Arc<Clock>) -> Result<Self, TokenFileError> {
        let text = token_file::text(path)?;
        let tokens = Self {
            path: path.to_owned(),
            registry: Arc::clone(registry),
            clock: Arc::clone(clock),
            table: RwLock::default(),
            tickets: Tickets::new(Arc::clone(clock)),
            reading: Mutex::new(Reading { text: String::new(), failure: None }),
        };
        let entries = token_file::parse(&text, path)?;
        tokens.put_in_force(entries);
        tokens.reading.lock().unwrap_or_else(PoisonError::into_inner).text = text;
        Ok(tokens)
    }

    /// What the holder of a secret may do; `None` if no token in force has it.
    pub(crate) fn find(&self, secret: &Secret) -> Option<Arc<Grant>> {
        let digest = secret.digest();
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.find(&digest).filter(|grant| !grant.is_over()).cloned()
    }

    /// The tickets of their holders.
    pub(crate) fn tickets(&self) -> &Tickets {
        &self.tickets
    }

    /// The number of tokens in force.
    fn count(&self) -> usize {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.0.iter().filter(|grant| !grant.is_over()).count()
    }

    /// Why the file cannot be read at the moment.
    pub(crate) fn failure(&self) -> Option<String> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner).failure.clone()
    }

    /// Reads the file again. What has not changed in it stays in force, with its streams; if it cannot be read, everything
    /// does.
    pub(crate) fn reload(&self) {
        let mut reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let read = token_file::text(&self.path).and_then(|text| {
            let entries = if text == reading.text { None } else { Some(token_file::parse(&text, &self.path)?) };
            Ok((text, entries))
        });
        match read {
            Ok((text, entries)) => {
                if let Some(entries) = entries {
                    self.put_in_force(entries);
                    log::info!(
                        "the token file {} was read again; tokens in force: {}",
                        self.path.display(),
                        self.count()
                    );
                } else if reading.failure.is_some() {
                    log::info!("the token file {} can be read again", self.path.display());
                }
                *reading = Reading { text, failure: None };
            }
            Err(error) => {
                let failure = ErrorChain(&error).to_string();
                if reading.failure.as_ref() != Some(&failure) {
                    log::error!("{failure}; the tokens that it had stay in force");
                }
                reading.failure = Some(failure);
            }
        }
    }

    fn put_in_force(&self, entries: Vec<TokenEntry>) {
        for entry in &entries {
            for invalid in entry.scopes.iter().filter_map(|scope| scope.check(&self.registry).err()) {
                log::warn!("the token {} has a scope that permits nothing: {invalid}", entry.name);
            }
        }
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::take(&mut *table);
        let grants = entries.into_iter().map(|entry| match before.find(&entry.digest) {
            Some(grant) if grant.entry().is_same(&entry) => Arc::clone(grant),
            _ => {
                let permissions = Permissions::of(&entry.scopes, &self.registry);
                Arc::new(Grant::new(entry, permissions, Arc::clone(&self.clock)))
            }
        });
        table.0 = grants.collect();
        table.0.sort_by_key(|grant| grant.entry().digest.index());
        let stays =
            |grant: &Arc<Grant>| table.find(&grant.entry().digest).is_some_and(|other| Arc::ptr_eq(grant, other));
        before.0.iter().filter(|grant| !stays(grant)).for_each(|grant| grant.revoke());
    }
}

impl Table {
    fn find(&self, digest: &TokenDigest) -> Option<&Arc<Grant>> {
        let index = digest.index();
        let first = self.0.partition_point(|grant| grant.entry().digest.index() < index);
        let candidates = self.0[first..].iter().take_while(|grant| grant.entry().digest.index() == index);
        candidates.into_iter().find(|grant| grant.entry().digest.is(digest))
    }
}
