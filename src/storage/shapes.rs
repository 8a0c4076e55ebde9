//! The digests of the types with which a program has last looked at what is stored of a collection.

use diesel::prelude::*;

use super::engine::AnyConnection;
use super::error::StoreError;
use super::schema::collections;

/// The digest of a collection. `None` if no program has looked yet.
pub(super) fn find(connection: &mut AnyConnection, collection: &str) -> Result<Option<String>, StoreError> {
    let shape = collections::table.find(collection).select(collections::shape);
    Ok(shape.first::<Option<String>>(connection).optional()?.flatten())
}

/// Notes that what is stored is of this type.
pub(super) fn save(connection: &mut AnyConnection, collection: &str, shape: &str) -> Result<(), StoreError> {
    diesel::update(collections::table.find(collection)).set(collections::shape.eq(shape)).execute(connection)?;
    Ok(())
}
