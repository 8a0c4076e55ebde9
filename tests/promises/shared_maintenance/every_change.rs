//! Every change event that a database has ever had, also those that were pruned or overwritten since.

use std::collections::{BTreeMap, BTreeSet};

use crate::harness::engine::psql;

/// The database copies each change event as it is inserted, in the same transaction.
const COPY: &str = "
    CREATE SCHEMA witness;
    CREATE TABLE witness.changes AS SELECT revision, collection, key, patch FROM outbox;
    CREATE FUNCTION witness.copy() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO witness.changes VALUES (NEW.revision, NEW.collection, NEW.key, NEW.patch); RETURN NULL; END $$;
    CREATE TRIGGER witness AFTER INSERT ON outbox FOR EACH ROW EXECUTE FUNCTION witness.copy()";

/// The change events of collections that clients write, by revision.
pub(super) struct EveryChange(BTreeMap<i64, String>);

impl EveryChange {
    /// From now on, all of them are kept. The tables have to exist.
    pub(super) fn keep(url: &str) {
        psql(url, COPY);
    }

    /// Those that were kept, after checking that no revision is missing, and that none has two events about an aggregate.
    #[track_caller]
    pub(super) fn of(url: &str) -> Self {
        let last: i64 = psql(url, "SELECT revision FROM metadata").parse().unwrap();
        let revisions = psql(url, "SELECT count(DISTINCT revision), min(revision), max(revision) FROM witness.changes");
        assert_eq!(revisions, format!("{last}|1|{last}"), "revisions are dense");
        let doubled = "SELECT count(*) - count(DISTINCT (revision, collection, key)) FROM witness.changes";
        assert_eq!(psql(url, doubled), "0", "no revision has two contents");
        let written = "SELECT revision, patch FROM witness.changes WHERE collection IN ('persons', 'carts')";
        let lines = psql(url, written);
        let changes = lines.lines().map(|line| {
            let (revision, patch) = line.split_once('|').unwrap();
            (revision.parse().unwrap(), patch.to_owned())
        });
        Self(changes.collect())
    }

    /// The revisions whose events have this text.
    pub(super) fn with(&self, text: &str) -> BTreeSet<i64> {
        self.0.iter().filter(|(_, patch)| patch.contains(text)).map(|(revision, _)| *revision).collect()
    }
}
