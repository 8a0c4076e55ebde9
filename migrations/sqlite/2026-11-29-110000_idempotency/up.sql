-- The answers to commands with an `Idempotency-Key`, in the order in which they were given. A repeated command gets its
-- answer from here.
CREATE TABLE idempotency (
    -- In the order of the rows, so that the oldest are pruned first.
    position INTEGER NOT NULL PRIMARY KEY,
    -- SHA-256 of the caller, the method, the path and the key.
    request BLOB NOT NULL UNIQUE,
    -- SHA-256 of the media type and the body.
    fingerprint BLOB NOT NULL,
    -- The aggregate that the command was for, or that it created.
    collection TEXT NOT NULL,
    aggregate TEXT,
    -- Milliseconds since 1970.
    time BIGINT NOT NULL,
    -- A line of JSON that describes the answer, then its body; NULL if the aggregate was erased. The last column, so that
    -- what looks at the others does not read it.
    answer TEXT
);

-- A clock was ahead: answers up to this position that claim a later time than this count as written at this time, when
-- that was first seen.
ALTER TABLE metadata ADD COLUMN future_answers_position BIGINT NOT NULL DEFAULT 0;
ALTER TABLE metadata ADD COLUMN future_answers_seen BIGINT NOT NULL DEFAULT 0;
