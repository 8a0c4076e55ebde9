-- The histories of the database, oldest first: each start for writing begins an epoch. A cursor of an earlier epoch is
-- good up to where the next one began.
CREATE TABLE epochs (
    number INTEGER NOT NULL PRIMARY KEY,
    epoch TEXT NOT NULL UNIQUE,
    -- The first revision, and the first position of the journal, that belong to it.
    first_revision BIGINT NOT NULL,
    first_position BIGINT NOT NULL
);

INSERT INTO epochs (number, epoch, first_revision, first_position) SELECT 1, epoch, 1, 1 FROM metadata;

-- The revision that the database file alone had when the write-ahead log last began anew: a file with an earlier one
-- does not belong to its log.
ALTER TABLE metadata ADD COLUMN log_began BIGINT NOT NULL DEFAULT 0;

-- The `user_version` that the database file alone had at that time. The transaction that begins a log sets another one.
ALTER TABLE metadata ADD COLUMN log_follows INTEGER NOT NULL DEFAULT 0;

-- A clock was ahead: change events, and tombstones, up to this revision that claim a later time than this count as written
-- at this time, when that was first seen.
ALTER TABLE metadata ADD COLUMN future_events_revision BIGINT NOT NULL DEFAULT 0;
ALTER TABLE metadata ADD COLUMN future_events_seen BIGINT NOT NULL DEFAULT 0;
ALTER TABLE metadata ADD COLUMN future_tombstones_revision BIGINT NOT NULL DEFAULT 0;
ALTER TABLE metadata ADD COLUMN future_tombstones_seen BIGINT NOT NULL DEFAULT 0;

-- Marks the file as ours: "dual". SQLite and `file` show it.
PRAGMA application_id = 1685414252;
