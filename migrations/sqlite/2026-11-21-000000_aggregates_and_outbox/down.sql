DROP TABLE outbox;
DROP TABLE aggregates;
DROP TABLE collections;
DROP TABLE metadata;
