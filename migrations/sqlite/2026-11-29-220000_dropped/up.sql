-- Collections that were dropped, until a program registers them again. They are no part of the document any more.
CREATE TABLE dropped (
    collection TEXT NOT NULL PRIMARY KEY,
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
