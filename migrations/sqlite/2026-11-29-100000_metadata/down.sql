ALTER TABLE outbox DROP COLUMN metadata;
ALTER TABLE journal DROP COLUMN metadata;
