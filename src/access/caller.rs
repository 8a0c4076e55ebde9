//! Who sends a request.

use std::sync::Arc;

use super::grant::Grant;
use super::need::{MissingScope, Need};
use super::permissions::Readable;
use crate::domain::collection::Registry;
use crate::domain::key::{CollectionId, Key};

/// Who sends a request.
#[derive(Clone)]
pub(crate) enum Caller {
    /// The service has no tokens: everybody may do everything.
    Anybody,
    /// A request without a token, to a service that has tokens.
    Stranger,
    /// The holder of a valid token.
    Holder(Arc<Grant>),
}

impl Caller {
    /// The name of the token, if there is one.
    pub(crate) fn name(&self) -> Option<&str> {
        self.grant().map(|grant| grant.name())
    }

    pub(crate) fn grant(&self) -> Option<&Arc<Grant>> {
        match self {
            Self::Holder(grant) => Some(grant),
            Self::Anybody | Self::Stranger => None,
        }
    }

    /// Whether the caller may send a request that needs this, with this path.
    pub(crate) fn may(&self, need: Need, path: &str) -> bool {
        match self {
            Self::Anybody => true,
            Self::Stranger => need == Need::Open,
            Self::Holder(grant) => grant.permissions().allow(need, path),
        }
    }

    /// Whether the caller may operate the service.
    pub(crate) fn may_operate(&self) -> bool {
        self.may(Need::Operate, "")
    }

    /// Whether the caller may read this aggregate.
    pub(crate) fn may_read(&self, collection: CollectionId, key: &Key) -> bool {
        match self {
            Self::Anybody => true,
            Self::Stranger => false,
            Self::Holder(grant) => grant.permissions().may_read(collection, key),
        }
    }

    /// The collections that the caller may read as a whole.
    pub(crate) fn readable(&self) -> Readable {
        match self {
            Self::Anybody => Readable::All,
            Self::Stranger => Readable::nothing(),
            Self::Holder(grant) => grant.permissions().readable().clone(),
        }
    }

    /// Checks that the caller may read these aggregates; `None` are all of the collection.
    ///
    /// # Errors
    /// Names the scope for the first one that it may not read.
    pub(crate) fn check_keys(
        &self,
        registry: &Registry,
        collection: CollectionId,
        keys: Option<&[Key]>,
    ) -> Result<(), MissingScope> {
        if self.readable().contains(collection) {
            return Ok(());
        }
        let name = registry.get(collection).name();
        match keys {
            None => Err(MissingScope::of_collection(name)),
            Some(keys) => match keys.iter().find(|key| !self.may_read(collection, key)) {
                Some(key) => Err(MissingScope::of_aggregate(name, key)),
                None => Ok(()),
            },
        }
    }
}
