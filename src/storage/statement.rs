//! The macro for statements that are prepared once per connection.

/// Declares a statement of one constant text: a struct with a field for each bound value. Text and values alternate; a
/// last text may follow the fields, or be the whole statement.
///
/// Diesel prepares its own `UPDATE`s and upserts each time they run, because their text may vary. It keeps a prepared
/// statement of these, and the static `QueryId` lets it find that without building the text.
macro_rules! statement {
    (
        $(#[$attribute:meta])*
        struct $name:ident $(<$lifetime:lifetime>)? {
            $($sql:literal $field:ident: $rust:ty as $sql_type:ty,)*
        }
        $($end:literal)?
    ) => {
        $(#[$attribute])*
        struct $name $(<$lifetime>)? {
            $($field: $rust,)*
        }

        const _: () = {
            use diesel::query_builder::{AstPass, QueryFragment, QueryId};

            impl<$($lifetime,)? Engine> QueryFragment<Engine> for $name$(<$lifetime>)?
            where
                Engine: diesel::backend::Backend $(+ diesel::sql_types::HasSqlType<$sql_type>)*,
                $($rust: diesel::serialize::ToSql<$sql_type, Engine>,)*
            {
                fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Engine>) -> diesel::QueryResult<()> {
                    $(
                        out.push_sql($sql);
                        out.push_bind_param::<$sql_type, _>(&self.$field)?;
                    )*
                    $(out.push_sql($end);)?
                    Ok(())
                }
            }

            /// Identifies the text, whatever its values are.
            struct StatementId;

            impl$(<$lifetime>)? QueryId for $name$(<$lifetime>)? {
                type QueryId = StatementId;
                const HAS_STATIC_QUERY_ID: bool = true;
            }

            impl<$($lifetime,)? Engine> diesel::RunQueryDsl<Engine> for $name$(<$lifetime>)? {}
        };
    };
}

pub(super) use statement;
