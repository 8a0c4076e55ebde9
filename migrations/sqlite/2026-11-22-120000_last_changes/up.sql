-- The revision at which something in the collection last changed; remembered here, since no row may be left to tell.
ALTER TABLE collections ADD COLUMN changed BIGINT NOT NULL DEFAULT 0;

-- When exactly that was is not known of what was there before; no later than now.
UPDATE collections SET changed = (SELECT revision FROM metadata);
