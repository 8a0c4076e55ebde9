// What only PostgreSQL has, beside the tables of `../schema.rs`.

diesel::table! {
    batches (token) {
        token -> Binary,
        after -> BigInt,
        revision -> BigInt,
    }
}

diesel::table! {
    metadata (id) {
        id -> BigInt,
        epoch -> Text,
        revision -> BigInt,
        pruned -> BigInt,
        forgotten -> BigInt,
        future_events_revision -> BigInt,
        future_events_seen -> BigInt,
        future_tombstones_revision -> BigInt,
        future_tombstones_seen -> BigInt,
        future_answers_position -> BigInt,
        future_answers_seen -> BigInt,
        erasures -> BigInt,
        token -> Binary,
        system -> Text,
        relation -> BigInt,
        timeline -> Text,
    }
}
