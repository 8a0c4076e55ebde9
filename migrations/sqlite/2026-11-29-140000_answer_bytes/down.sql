ALTER TABLE metadata DROP COLUMN answer_bytes;
