ALTER TABLE metadata DROP COLUMN future_answers_seen;
ALTER TABLE metadata DROP COLUMN future_answers_position;
DROP TABLE idempotency;
