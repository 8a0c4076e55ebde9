-- When a tombstone was made, in milliseconds since 1970; null while the aggregate is there.
ALTER TABLE aggregates ADD COLUMN deleted BIGINT;

-- What changed since a revision, in order: the cost of a catch-up follows what changed, not what there is.
CREATE INDEX aggregates_by_revision ON aggregates (revision);

-- The tombstones, oldest first.
CREATE INDEX tombstones ON aggregates (revision) WHERE body IS NULL;

-- The last revision of a deletion that is forgotten.
ALTER TABLE metadata ADD COLUMN forgotten BIGINT NOT NULL DEFAULT 0;
