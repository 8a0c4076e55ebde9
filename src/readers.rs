//! The actors that read: a few threads, each with a read-only connection, so that no read blocks a thread that serves
//! streams, or the writer.

use std::sync::Arc;

use actix::prelude::*;
use actix_web::web::Bytes;
use tokio::sync::oneshot;

use crate::collection::{CollectionId, Registry};
use crate::cursor::{Epoch, Revision};
use crate::feed::{Feed, Frames, push_member};
use crate::key::Key;
use crate::spool::{Broken, Spool};
use crate::store::{Database, Page, Reader, Row, StoreError};

/// One reading thread.
pub(crate) struct Readers {
    database: Arc<Database>,
    registry: Arc<Registry>,
    epoch: Epoch,
    /// `None` until the first read, and after a failure.
    reader: Option<Reader>,
}

/// A body that is streamed is given to the client in chunks of about this many bytes.
const CHUNK: usize = 64 * 1024;

impl Readers {
    pub(crate) fn start(
        threads: usize,
        database: &Arc<Database>,
        registry: &Arc<Registry>,
        epoch: &Epoch,
    ) -> Addr<Self> {
        let (database, registry, epoch) = (Arc::clone(database), Arc::clone(registry), epoch.clone());
        SyncArbiter::start(threads, move || Self {
            database: Arc::clone(&database),
            registry: Arc::clone(&registry),
            epoch: epoch.clone(),
            reader: None,
        })
    }

    /// Lends the connection; one that failed is not used again.
    fn with_reader<T, E: From<StoreError>>(&mut self, work: impl FnOnce(&mut Reader) -> Result<T, E>) -> Result<T, E> {
        let mut reader = match self.reader.take() {
            Some(reader) => reader,
            None => Reader::open(&self.database, Arc::clone(&self.registry))?,
        };
        let outcome = work(&mut reader);
        if outcome.is_ok() {
            self.reader = Some(reader);
        }
        outcome
    }
}

impl Actor for Readers {
    type Context = SyncContext<Self>;
}

/// Some of the events of a feed after a revision.
pub(crate) struct ReadEvents {
    pub(crate) feed: Feed,
    pub(crate) after: Revision,
}

/// What was read of a feed.
pub(crate) enum Events {
    /// Its events up to and including the revision `to`; there are no more when `to == current`.
    Read { bytes: Bytes, to: Revision, current: Revision },
    /// What is retained begins with `oldest`, and ends with `current`: the revision is not within.
    Outside { oldest: Revision, current: Revision },
}

impl Message for ReadEvents {
    type Result = Result<Events, StoreError>;
}

impl Handler<ReadEvents> for Readers {
    type Result = Result<Events, StoreError>;

    fn handle(&mut self, ReadEvents { feed, after }: ReadEvents, _: &mut Self::Context) -> Self::Result {
        match self.with_reader(|reader| reader.page(after, Some(feed.collection)))? {
            Page::Changes { changes, to, current } => {
                Ok(Events::Read { bytes: Frames::encode(feed, &self.epoch, &changes).all(), to, current })
            }
            Page::Outside { oldest, current } => Ok(Events::Outside { oldest, current }),
        }
    }
}

/// One aggregate, and the revision of the document that shows it.
pub(crate) struct ReadAggregate {
    pub(crate) collection: CollectionId,
    pub(crate) key: Key,
}

impl Message for ReadAggregate {
    type Result = Result<(Revision, Option<Row>), StoreError>;
}

impl Handler<ReadAggregate> for Readers {
    type Result = Result<(Revision, Option<Row>), StoreError>;

    fn handle(&mut self, ReadAggregate { collection, key }: ReadAggregate, _: &mut Self::Context) -> Self::Result {
        self.with_reader(|reader| reader.aggregate(collection, &key))
    }
}

/// A whole collection as one JSON object, into a spool; first of all, the revision that it shows.
pub(crate) struct ReadCollection {
    pub(crate) collection: CollectionId,
    pub(crate) revision: oneshot::Sender<Revision>,
    pub(crate) body: Spool,
}

impl Message for ReadCollection {
    type Result = ();
}

impl Handler<ReadCollection> for Readers {
    type Result = ();

    fn handle(&mut self, read: ReadCollection, _: &mut Self::Context) {
        let ReadCollection { collection, revision, mut body } = read;
        let mut object = String::from("{");
        let outcome = self.with_reader(|reader| {
            let head = |shown| {
                // A client that has gone is noticed when its body is written.
                let _ = revision.send(shown);
            };
            reader.collection(collection, head, |key, aggregate| {
                if object.len() >= CHUNK {
                    body.push(std::mem::take(&mut object).into())?;
                    object.push(',');
                } else if object.len() > 1 {
                    object.push(',');
                }
                push_member(&mut object, key, aggregate);
                Ok::<_, Broken>(())
            })
        });
        object.push('}');
        match outcome.and_then(|()| body.push(object.into())) {
            Ok(()) => body.finish(),
            Err(Broken::ClientGone) => {}
            // The spool is dropped unfinished: the client's response is cut, and not taken for the whole.
            Err(broken) => log::error!("a response was not finished: {broken}"),
        }
    }
}
