-- The record of duality on PostgreSQL: the tables of `migrations/sqlite`, and what many services on one database need.
-- Names and keys are compared by bytes (COLLATE "C"), as everywhere in duality.

-- One row. Every transaction that changes anything takes it first, so that there is one order of all changes.
CREATE TABLE metadata (
    id BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
    -- Which life of the database this is.
    epoch TEXT COLLATE "C" NOT NULL,
    -- The last revision given.
    revision BIGINT NOT NULL,
    -- The last revision whose change events were pruned from the outbox.
    pruned BIGINT NOT NULL,
    -- The last revision of a deletion that is forgotten.
    forgotten BIGINT NOT NULL,
    -- A clock was ahead: rows up to these that claim a later time count as written at these times, when that was first seen.
    future_events_revision BIGINT NOT NULL DEFAULT 0,
    future_events_seen BIGINT NOT NULL DEFAULT 0,
    future_tombstones_revision BIGINT NOT NULL DEFAULT 0,
    future_tombstones_seen BIGINT NOT NULL DEFAULT 0,
    future_answers_position BIGINT NOT NULL DEFAULT 0,
    future_answers_seen BIGINT NOT NULL DEFAULT 0,
    -- How often the past was changed: who keeps some of it in memory reads it again then.
    erasures BIGINT NOT NULL DEFAULT 0,
    -- The bytes of the texts of all answers in `idempotency`.
    answer_bytes BIGINT NOT NULL DEFAULT 0,
    -- The last revision of the batches that are forgotten.
    batches_forgotten BIGINT NOT NULL DEFAULT 0,
    -- Random bytes that everything replaces which changes the record: who knows them knows the record as it is.
    token BYTEA NOT NULL,
    -- Where the epoch began: the system identifier of the server, the number of the database, the number of this table (a
    -- restored one has another), and the timeline of the server's log (a promoted standby has another).
    place TEXT COLLATE "C" NOT NULL
) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

CREATE TABLE collections (
    name TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    -- The rule by which the collection is derived; of documents, the version of their members.
    version BIGINT NOT NULL,
    -- The number that the next aggregate of a sequence gets.
    next_key BIGINT NOT NULL,
    -- The revision of its last change.
    changed BIGINT NOT NULL DEFAULT 0,
    -- What the members of a document are, as the program that stored it last had them: a digest of its schema.
    shape TEXT
) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

CREATE TABLE aggregates (
    collection TEXT COLLATE "C" NOT NULL,
    -- The number of digits of a canonical integer, 1000 for any other key: (rank, key) is the order of bodies.
    rank INTEGER NOT NULL,
    key TEXT COLLATE "C" NOT NULL,
    -- The revision of the last change.
    revision BIGINT NOT NULL,
    -- The number of domain events so far; 0 for an aggregate that has none.
    version BIGINT NOT NULL,
    body TEXT,
    -- When a tombstone was made, in milliseconds since 1970; null while the aggregate is there.
    deleted BIGINT,
    PRIMARY KEY (collection, rank, key)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.05);

-- What changed since a revision, in order: the cost of a catch-up follows what changed, not what there is.
CREATE INDEX aggregates_by_revision ON aggregates (revision);

-- The tombstones, oldest first.
CREATE INDEX tombstones ON aggregates (revision) WHERE body IS NULL;

CREATE TABLE outbox (
    revision BIGINT NOT NULL,
    collection TEXT COLLATE "C" NOT NULL,
    key TEXT COLLATE "C" NOT NULL,
    -- RFC 7396, from the aggregate before to the aggregate after; `null` when it was deleted.
    patch TEXT NOT NULL,
    -- Milliseconds since 1970; for retention only.
    time BIGINT NOT NULL,
    -- Who caused the write, and why: a JSON object.
    metadata TEXT,
    PRIMARY KEY (revision, collection, key)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05);

-- The domain events of event-sourced aggregates: their truth. Nothing is ever removed or changed, but by an erasure.
CREATE TABLE journal (
    -- The place of the event among all: 1, 2, 3 …
    position BIGINT NOT NULL PRIMARY KEY,
    collection TEXT COLLATE "C" NOT NULL,
    key TEXT COLLATE "C" NOT NULL,
    -- The place of the event among those of its aggregate: 1, 2, 3 …
    version BIGINT NOT NULL,
    -- The name of the event's variant.
    kind TEXT NOT NULL,
    -- The shape in which the fields were written.
    schema BIGINT NOT NULL,
    -- The fields of the event, a JSON text.
    body TEXT NOT NULL,
    -- Milliseconds since 1970; for people only.
    time BIGINT NOT NULL,
    -- Who caused the write, and why: a JSON object.
    metadata TEXT,
    -- An erased domain event keeps its place, its kind and its time. Its content is overwritten.
    erased INTEGER NOT NULL DEFAULT 0
);

-- The events of one aggregate, in order; and nothing happens twice.
CREATE UNIQUE INDEX journal_by_aggregate ON journal (collection, key, version);

-- Inline projections need SQLite. The table is here so that the tables of both engines are the same.
CREATE TABLE projections (
    name TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    version BIGINT NOT NULL,
    tables TEXT NOT NULL
);

-- The histories of the database, oldest first. A cursor of an earlier epoch is good up to where the next one began.
CREATE TABLE epochs (
    number BIGINT NOT NULL PRIMARY KEY,
    epoch TEXT COLLATE "C" NOT NULL UNIQUE,
    -- The first revision, and the first position of the journal, that belong to it.
    first_revision BIGINT NOT NULL,
    first_position BIGINT NOT NULL
);

-- The answers to commands with an `Idempotency-Key`, in the order in which they were given.
CREATE TABLE idempotency (
    position BIGINT GENERATED BY DEFAULT AS IDENTITY NOT NULL PRIMARY KEY,
    -- SHA-256 of the caller, the method, the path and the key.
    request BYTEA NOT NULL UNIQUE,
    -- SHA-256 of the media type and the body.
    fingerprint BYTEA NOT NULL,
    -- The aggregate that the command was for, or that it created.
    collection TEXT COLLATE "C" NOT NULL,
    aggregate TEXT COLLATE "C",
    -- Milliseconds since 1970.
    time BIGINT NOT NULL,
    -- A line of JSON that describes the answer, then its body; NULL if the aggregate was erased.
    answer TEXT
);

-- The aggregates that were erased: their keys are never used again.
CREATE TABLE erased (
    collection TEXT COLLATE "C" NOT NULL,
    key TEXT COLLATE "C" NOT NULL,
    -- The revision with the change event `null`.
    revision BIGINT NOT NULL,
    -- The position of the domain event that says so, when all others are overwritten; null for a document.
    position BIGINT,
    -- What is to be done next; `done` if nothing is.
    stage TEXT NOT NULL,
    -- How far that is: a version, or a revision.
    reached BIGINT NOT NULL,
    PRIMARY KEY (collection, key)
);

-- In the order in which they were erased, for those who publish.
CREATE INDEX erased_by_revision ON erased (revision);

-- What is to be finished.
CREATE INDEX erasures_in_progress ON erased (revision) WHERE stage <> 'done';

-- A row for each batch of commands that was committed, by the token that it left: a service whose connection broke while
-- its batch was on the way finds out here what became of it. By the first revision as well, so that each new row is beside
-- the last one in the index, and rows are forgotten in their order: a batch that only stores an answer has a last revision
-- that is before its first one.
CREATE TABLE batches (
    -- Its first revision, or the one that it would have had.
    first BIGINT NOT NULL,
    token BYTEA NOT NULL,
    last BIGINT NOT NULL,
    PRIMARY KEY (first, token)
);

-- Collections whose documents are being converted to a newer version. What is before the place is done.
CREATE TABLE upgrades (
    collection TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    -- The version that the others still have, and the one that they get.
    from_version BIGINT NOT NULL,
    to_version BIGINT NOT NULL,
    -- The last revision before it: what is older has the former members.
    after BIGINT NOT NULL,
    -- The last key that is done; empty before the first.
    place TEXT NOT NULL,
    -- Whether the rows are done, and only the rest is left.
    converted INTEGER NOT NULL DEFAULT 0
);

-- Collections that were dropped, until a program registers them again. They are no part of the document any more.
CREATE TABLE dropped (
    collection TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    -- The revision with the change event that says so.
    revision BIGINT NOT NULL,
    -- The number that the next aggregate of a sequence would get: a key is not given twice.
    next_key BIGINT NOT NULL,
    -- Whether the content of its domain events stays.
    keeps_journal INTEGER NOT NULL,
    -- What is to be removed next; `done` if nothing is. A process that is killed leaves the rest to the next one.
    stage TEXT NOT NULL,
    -- How far that is: a position; of change events, the last revision that goes.
    reached BIGINT NOT NULL
);
