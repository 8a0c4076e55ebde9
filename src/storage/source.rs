//! What the commands of a batch read: rows in the transaction of the batch, or what was fetched before they are decided.

use super::aggregates::{self, Row};
use super::answers::{self, Found};
use super::engine::AnyConnection;
use super::erasure;
use super::error::ReadError;
#[cfg(feature = "postgres")]
use super::fetched::Fetched;
use super::hot_states::Place;
use super::journal::{self, Folded};
use crate::domain::collection::Journaled;
use crate::domain::idempotency::RequestId;

/// Where a batch reads.
pub(super) enum Source<'a> {
    /// In its transaction.
    Transaction(&'a mut AnyConnection),
    #[cfg(feature = "postgres")]
    Fetched(&'a mut Fetched),
}

impl Source<'_> {
    /// The transaction, for what is never fetched.
    pub(super) fn transaction(&mut self) -> Result<&mut AnyConnection, ReadError> {
        match self {
            Self::Transaction(connection) => Ok(connection),
            #[cfg(feature = "postgres")]
            Self::Fetched(fetched) => Err(fetched.needs_transaction()),
        }
    }

    /// The row of an aggregate, which may be a tombstone. `None` if there is no row.
    pub(super) fn row(&mut self, collection: &str, place: &Place) -> Result<Option<Row>, ReadError> {
        match self {
            Self::Transaction(connection) => Ok(aggregates::load(connection, collection, &place.1)?),
            #[cfg(feature = "postgres")]
            Self::Fetched(fetched) => Ok(fetched.aggregate(place)?.row.clone()),
        }
    }

    /// Whether the row of an aggregate still has the revision and the version that it had.
    pub(super) fn is_current(&mut self, collection: &str, place: &Place, known: &Row) -> Result<bool, ReadError> {
        match self {
            Self::Transaction(connection) => Ok(aggregates::is_current(connection, collection, &place.1, known)?),
            #[cfg(feature = "postgres")]
            Self::Fetched(fetched) => Ok(fetched.aggregate(place)?.has(known)),
        }
    }

    /// The state of an aggregate without a row, according to its events.
    pub(super) fn fold(
        &mut self,
        collection: &str,
        journaled: &dyn Journaled,
        place: &Place,
    ) -> Result<Folded, ReadError> {
        #[cfg(feature = "postgres")]
        if let Self::Fetched(fetched) = self
            && !fetched.aggregate(place)?.has_events
        {
            return Ok(Folded::nothing(&place.1));
        }
        Ok(journal::fold(self.transaction()?, collection, journaled, &place.1, None)?)
    }

    /// Whether an aggregate that does not exist was erased.
    pub(super) fn is_erased(&mut self, collection: &str, place: &Place) -> Result<bool, ReadError> {
        match self {
            Self::Transaction(connection) => Ok(erasure::find(connection, collection, place.1.as_str())?.is_some()),
            #[cfg(feature = "postgres")]
            Self::Fetched(fetched) => Ok(fetched.aggregate(place)?.is_erased),
        }
    }

    /// What is stored about a request, if anything.
    pub(super) fn answer(&mut self, request: &RequestId) -> Result<Option<Found>, ReadError> {
        match self {
            Self::Transaction(connection) => Ok(answers::find(connection, request)?),
            #[cfg(feature = "postgres")]
            Self::Fetched(fetched) => fetched.answer(request),
        }
    }
}
