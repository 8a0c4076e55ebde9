ALTER TABLE metadata DROP COLUMN forgotten;
DROP INDEX tombstones;
DROP INDEX aggregates_by_revision;
ALTER TABLE aggregates DROP COLUMN deleted;
