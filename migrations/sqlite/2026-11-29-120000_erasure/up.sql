-- An erased domain event keeps its place, its kind and its time. Its content is overwritten.
ALTER TABLE journal ADD COLUMN erased INTEGER NOT NULL DEFAULT 0;

-- The aggregates that were erased: their keys are never used again.
CREATE TABLE erased (
    collection TEXT NOT NULL,
    key TEXT NOT NULL,
    -- The revision with the change event `null`.
    revision BIGINT NOT NULL,
    -- The position of the domain event that says so, when all others are overwritten; null for a document.
    position BIGINT,
    -- What is to be done next; `done` if nothing is. A process that is killed leaves the rest to the next one.
    stage TEXT NOT NULL,
    -- How far that is: a version, or a revision.
    reached BIGINT NOT NULL,
    PRIMARY KEY (collection, key)
) WITHOUT ROWID;

-- In the order in which they were erased, for those who publish.
CREATE INDEX erased_by_revision ON erased (revision);

-- What is to be finished.
CREATE INDEX erasures_in_progress ON erased (revision) WHERE stage <> 'done';

-- How often the past was changed: who keeps some of it in memory reads it again then.
ALTER TABLE metadata ADD COLUMN erasures BIGINT NOT NULL DEFAULT 0;

-- Whether everything that was ever deleted from the file is overwritten: 0 in a file from before this was so.
ALTER TABLE metadata ADD COLUMN overwritten BIGINT NOT NULL DEFAULT 0;
