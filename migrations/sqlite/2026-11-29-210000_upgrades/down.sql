DROP TABLE upgrades;
-- Only documents had no version. The digest of events begins with a word.
UPDATE collections SET version = 0 WHERE shape IS NOT NULL AND shape NOT LIKE 'events %';
ALTER TABLE collections DROP COLUMN shape;
