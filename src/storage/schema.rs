// @generated automatically by Diesel CLI.

diesel::table! {
    aggregates (collection, rank, key) {
        collection -> Text,
        rank -> Integer,
        key -> Text,
        revision -> BigInt,
        version -> BigInt,
        body -> Nullable<Text>,
        deleted -> Nullable<BigInt>,
    }
}

diesel::table! {
    collections (name) {
        name -> Text,
        version -> BigInt,
        next_key -> BigInt,
        changed -> BigInt,
        shape -> Nullable<Text>,
    }
}

diesel::table! {
    dropped (collection) {
        collection -> Text,
        revision -> BigInt,
        next_key -> BigInt,
        keeps_journal -> Integer,
        stage -> Text,
        reached -> BigInt,
    }
}

diesel::table! {
    epochs (number) {
        number -> BigInt,
        epoch -> Text,
        first_revision -> BigInt,
        first_position -> BigInt,
    }
}

diesel::table! {
    erased (collection, key) {
        collection -> Text,
        key -> Text,
        revision -> BigInt,
        position -> Nullable<BigInt>,
        stage -> Text,
        reached -> BigInt,
    }
}

diesel::table! {
    idempotency (position) {
        position -> BigInt,
        request -> Binary,
        fingerprint -> Binary,
        collection -> Text,
        aggregate -> Nullable<Text>,
        time -> BigInt,
        answer -> Nullable<Text>,
    }
}

diesel::table! {
    journal (position) {
        position -> BigInt,
        collection -> Text,
        key -> Text,
        version -> BigInt,
        kind -> Text,
        schema -> BigInt,
        body -> Text,
        time -> BigInt,
        metadata -> Nullable<Text>,
        erased -> Integer,
    }
}

diesel::table! {
    metadata (id) {
        id -> BigInt,
        epoch -> Text,
        revision -> BigInt,
        pruned -> BigInt,
        forgotten -> BigInt,
        log_began -> BigInt,
        log_follows -> Integer,
        future_events_revision -> BigInt,
        future_events_seen -> BigInt,
        future_tombstones_revision -> BigInt,
        future_tombstones_seen -> BigInt,
        future_answers_position -> BigInt,
        future_answers_seen -> BigInt,
        erasures -> BigInt,
        overwritten -> BigInt,
        answer_bytes -> BigInt,
    }
}

diesel::table! {
    outbox (revision, collection, key) {
        revision -> BigInt,
        collection -> Text,
        key -> Text,
        patch -> Text,
        time -> BigInt,
        metadata -> Nullable<Text>,
    }
}

diesel::table! {
    projections (name) {
        name -> Text,
        version -> BigInt,
        tables -> Text,
    }
}

diesel::table! {
    upgrades (collection) {
        collection -> Text,
        from_version -> BigInt,
        to_version -> BigInt,
        after -> BigInt,
        place -> Text,
        converted -> Integer,
    }
}

diesel::allow_tables_to_appear_in_same_query!(
    aggregates,
    collections,
    dropped,
    epochs,
    erased,
    idempotency,
    journal,
    metadata,
    outbox,
    projections,
    upgrades,
);
