-- The counters that survive pruning, deletion and restarts: one row.
CREATE TABLE metadata (
    id BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
    -- Which life of the database this is.
    epoch TEXT NOT NULL,
    -- The last revision given.
    revision BIGINT NOT NULL,
    -- The last revision whose change events were pruned from the outbox.
    pruned BIGINT NOT NULL
);

-- What was registered, so that a new or changed registration is noticed at start.
CREATE TABLE collections (
    name TEXT NOT NULL PRIMARY KEY,
    -- The rule by which the collection is derived; 0 for one that is not.
    version BIGINT NOT NULL,
    -- The number that the next aggregate of a sequence gets.
    next_key BIGINT NOT NULL
) WITHOUT ROWID;

-- The current state, one row an aggregate. A deleted one leaves a tombstone: its body is null.
CREATE TABLE aggregates (
    collection TEXT NOT NULL,
    -- The number of digits of a canonical integer, 1000 for any other key: (rank, key) is the order of bodies.
    rank INTEGER NOT NULL,
    key TEXT NOT NULL,
    -- The revision of the last change.
    revision BIGINT NOT NULL,
    -- The number of domain events so far; 0 for an aggregate that has none.
    version BIGINT NOT NULL,
    body TEXT,
    PRIMARY KEY (collection, rank, key)
) WITHOUT ROWID;

-- The change events: one row for every aggregate that a revision changed.
CREATE TABLE outbox (
    revision BIGINT NOT NULL,
    collection TEXT NOT NULL,
    key TEXT NOT NULL,
    -- RFC 7396, from the aggregate before to the aggregate after; `null` when it was deleted.
    patch TEXT NOT NULL,
    -- Milliseconds since 1970; for retention only.
    time BIGINT NOT NULL,
    PRIMARY KEY (revision, collection, key)
) WITHOUT ROWID;
