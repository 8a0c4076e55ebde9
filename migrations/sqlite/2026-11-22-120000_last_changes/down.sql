ALTER TABLE collections DROP COLUMN changed;
