//! Values that are looked at in the memory of the engine's own library, without a copy.

use diesel::backend::Backend;
use diesel::row::{Field as _, Row};
use diesel::sqlite::{Sqlite, SqliteValue};

use super::error::StoreError;

/// An engine whose values can be looked at where they are.
pub(super) trait InPlace: Backend {
    /// Calls `look` with a text.
    fn text<T>(value: Self::RawValue<'_>, look: impl FnOnce(&str) -> T) -> Result<T, StoreError>;

    /// A whole number of 64 bits.
    fn long(value: Self::RawValue<'_>) -> Result<i64, StoreError>;
}

impl InPlace for Sqlite {
    fn text<T>(mut value: SqliteValue<'_, '_, '_>, look: impl FnOnce(&str) -> T) -> Result<T, StoreError> {
        Ok(look(value.read_text()))
    }

    fn long(mut value: SqliteValue<'_, '_, '_>) -> Result<i64, StoreError> {
        Ok(value.read_long())
    }
}

#[cfg(feature = "postgres")]
impl InPlace for diesel::pg::Pg {
    fn text<T>(value: diesel::pg::PgValue<'_>, look: impl FnOnce(&str) -> T) -> Result<T, StoreError> {
        let text = std::str::from_utf8(value.as_bytes());
        text.map(look).map_err(|error| StoreError::Corrupt(format!("a text is not UTF-8: {error}")))
    }

    /// The binary format of `PostgreSQL` is in network byte order.
    fn long(value: diesel::pg::PgValue<'_>) -> Result<i64, StoreError> {
        let bytes = value.as_bytes().try_into();
        bytes.map(i64::from_be_bytes).map_err(|_| StoreError::Corrupt("a number does not have 8 bytes".to_owned()))
    }
}

/// Calls `look` with the text in a column of a row, which must not be null.
pub(super) fn text<'row, Engine: InPlace, T>(
    row: &impl Row<'row, Engine>,
    column: usize,
    look: impl FnOnce(&str) -> T,
) -> Result<T, StoreError> {
    optional_text(row, column, look)?.ok_or_else(|| is_null(column))
}

/// Calls `look` with the text in a column of a row, unless it is null.
pub(super) fn optional_text<'row, Engine: InPlace, T>(
    row: &impl Row<'row, Engine>,
    column: usize,
    look: impl FnOnce(&str) -> T,
) -> Result<Option<T>, StoreError> {
    let field = row.get(column);
    field.as_ref().and_then(|field| field.value()).map(|value| Engine::text(value, look)).transpose()
}

/// The number in a column of a row, which must not be null.
pub(super) fn long<'row, Engine: InPlace>(row: &impl Row<'row, Engine>, column: usize) -> Result<i64, StoreError> {
    let field = row.get(column);
    field.as_ref().and_then(|field| field.value()).map_or_else(|| Err(is_null(column)), Engine::long)
}

fn is_null(column: usize) -> StoreError {
    StoreError::Corrupt(format!("column {column} of a row is null"))
}
