-- The bytes of all texts in `idempotency.answer`, so that nobody has to add them up.
ALTER TABLE metadata ADD COLUMN answer_bytes BIGINT NOT NULL DEFAULT 0;

UPDATE metadata SET answer_bytes = (SELECT coalesce(sum(octet_length(answer)), 0) FROM idempotency);
