DROP TABLE upgrades;
UPDATE collections SET version = 0 WHERE shape IS NOT NULL;
ALTER TABLE collections DROP COLUMN shape;
