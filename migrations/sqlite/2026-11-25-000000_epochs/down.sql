ALTER TABLE metadata DROP COLUMN future_tombstones_seen;
ALTER TABLE metadata DROP COLUMN future_tombstones_revision;
ALTER TABLE metadata DROP COLUMN future_events_seen;
ALTER TABLE metadata DROP COLUMN future_events_revision;
ALTER TABLE metadata DROP COLUMN log_follows;
ALTER TABLE metadata DROP COLUMN log_began;
DROP TABLE epochs;
PRAGMA application_id = 0;
