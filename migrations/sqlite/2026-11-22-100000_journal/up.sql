-- The domain events of event-sourced aggregates: their truth. Nothing is ever removed or changed.
CREATE TABLE journal (
    -- The place of the event among all: 1, 2, 3 …
    position INTEGER NOT NULL PRIMARY KEY,
    collection TEXT NOT NULL,
    key TEXT NOT NULL,
    -- The place of the event among those of its aggregate: 1, 2, 3 …
    version BIGINT NOT NULL,
    -- The name of the event's variant.
    kind TEXT NOT NULL,
    -- The shape in which the fields were written.
    schema BIGINT NOT NULL,
    -- The fields of the event, a JSON text.
    body TEXT NOT NULL,
    -- Milliseconds since 1970; for people only.
    time BIGINT NOT NULL
);

-- The events of one aggregate, in order; and nothing happens twice.
CREATE UNIQUE INDEX journal_by_aggregate ON journal (collection, key, version);
