-- What the members of a document are, as the program that stored it last had them: a digest of its schema. NULL if no program
-- has looked yet.
ALTER TABLE collections ADD COLUMN shape TEXT;

-- Documents begin with version 1. Only they had no version.
UPDATE collections SET version = 1 WHERE version = 0;

-- Collections whose documents are being converted to a newer version. What is before the place is done.
CREATE TABLE upgrades (
    collection TEXT NOT NULL PRIMARY KEY,
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
