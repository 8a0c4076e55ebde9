ALTER TABLE metadata DROP COLUMN log_follows;
ALTER TABLE metadata DROP COLUMN log_began;
DROP TABLE epochs;
