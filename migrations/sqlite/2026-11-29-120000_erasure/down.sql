ALTER TABLE metadata DROP COLUMN overwritten;
ALTER TABLE metadata DROP COLUMN erasures;
DROP INDEX erasures_in_progress;
DROP INDEX erased_by_revision;
DROP TABLE erased;
ALTER TABLE journal DROP COLUMN erased;
