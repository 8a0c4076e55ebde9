// What only PostgreSQL has, beside the tables of `../schema.rs`.

diesel::table! {
    batches (first, token) {
        first -> BigInt,
        token -> Binary,
        last -> BigInt,
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
        answer_bytes -> BigInt,
        batches_forgotten -> BigInt,
        token -> Binary,
        place -> Text,
    }
}
