ALTER TABLE metadata DROP COLUMN log_began;
DROP TABLE epochs;
PRAGMA application_id = 0;
