-- Who caused the write, and why: a JSON object; null where nothing is known, as for everything that was written before.
ALTER TABLE journal ADD COLUMN metadata TEXT;
ALTER TABLE outbox ADD COLUMN metadata TEXT;
