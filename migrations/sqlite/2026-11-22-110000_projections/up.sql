-- The projections that are kept in the transactions of the commands.
CREATE TABLE projections (
    name TEXT NOT NULL PRIMARY KEY,
    -- The rule by which it was made.
    version BIGINT NOT NULL,
    -- The tables that it made, a JSON array of their names: they go when it does.
    tables TEXT NOT NULL
) WITHOUT ROWID;
