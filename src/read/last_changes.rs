//! When each collection has changed last, for readers of a record that other services write as well.
//!
//! A reader must see every write that was answered before it began to read, so only a question that is asked after that
//! answers it. All who come while one question is under way share the next one: a thousand readers cost as many questions as
//! fit behind one another, not a thousand.

use std::sync::{Arc, Mutex};

use tokio::sync::OnceCell;

use super::pool::{ReadLastChanges, Readers};
use crate::domain::error_chain::ErrorChain;
use crate::domain::key::CollectionId;
use crate::domain::revision::Revision;
use crate::read::collection_cache::{CollectionRevision, CollectionRevisions};
use crate::storage::error::StoreError;

/// The questions about the last changes.
#[derive(Default)]
pub(crate) struct LastChanges {
    /// The question that has not been asked yet. Whoever comes now gets its answer.
    next: Mutex<Arc<Question>>,
    /// Held while a question is under way.
    turn: tokio::sync::Mutex<()>,
}

type Question = OnceCell<Result<Arc<CollectionRevisions>, Unanswered>>;

/// Why there is no answer. The log has more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unanswered {
    /// The record is another one than the one that was opened.
    Replaced,
    /// Its server does not answer.
    Unavailable,
    /// It cannot be read.
    Failed,
}

impl LastChanges {
    /// A revision not before any that was answered when this was called, and that of the last change of some collections.
    pub(crate) async fn of(
        &self,
        readers: &Readers,
        collections: &[CollectionId],
    ) -> Result<CollectionRevision, Unanswered> {
        let question = Arc::clone(&self.next.lock().expect("nobody panics while holding it"));
        // If the client that asks disconnects meanwhile, another one that waits asks again.
        let changed = question.get_or_init(|| self.ask(readers, &question)).await.clone()?;
        let last = collections.iter().map(|id| changed.changed[id.index()]).max();
        Ok(CollectionRevision { document: changed.document, changed: last.unwrap_or(Revision::ZERO) })
    }

    async fn ask(&self, readers: &Readers, question: &Arc<Question>) -> Result<Arc<CollectionRevisions>, Unanswered> {
        let _turn = self.turn.lock().await;
        {
            let mut next = self.next.lock().expect("nobody panics while holding it");
            // From here on, it may be too early for those who come.
            if Arc::ptr_eq(&next, question) {
                *next = Arc::default();
            }
        }
        match readers.send(ReadLastChanges).await {
            Ok(Ok(changed)) => Ok(Arc::new(changed)),
            Ok(Err(StoreError::Replaced { .. })) => Err(Unanswered::Replaced),
            Ok(Err(StoreError::Unavailable(_))) => Err(Unanswered::Unavailable),
            Ok(Err(error)) => {
                // If nothing can be read, that is in the log already, once and not for each question.
                if !error.is_of_file() {
                    log::error!("{}", ErrorChain(&error));
                }
                Err(Unanswered::Failed)
            }
            Err(stopped) => {
                log::error!("{stopped}");
                Err(Unanswered::Failed)
            }
        }
    }
}
