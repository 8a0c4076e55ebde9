//! What SQLite leaves of deleted rows in pages that are in use.
//!
//! `PRAGMA secure_delete` overwrites a row when it is deleted. But when rows move from a page to another one, their former
//! bytes stay behind as unused room of the page that they have left, and nobody overwrites them later. So after rows were
//! erased, the unused room of all pages is overwritten with zeros
//! (<https://www.sqlite.org/fileformat2.html#b_tree_pages>).

use diesel::prelude::*;
use diesel::result::Error as QueryError;
use diesel::sql_types::{BigInt, Binary};
use diesel::sqlite::SqliteConnection;

use super::error::StoreError;

/// Pages that one transaction looks at, so that no command waits for long.
const PAGES_PER_TRANSACTION: i64 = 1000;

/// From this number on, the first byte of a page that continues a long row could be that of a page with rows.
const MAX_PAGES: i64 = 0x0200_0000;

/// What a step has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overwritten {
    /// All pages before this one.
    Before(i64),
    /// All pages.
    All,
    /// This SQLite cannot write pages, or there are too many of them: only `VACUUM` removes what they have.
    Unsupported,
}

#[derive(QueryableByName)]
struct Page {
    #[diesel(sql_type = Binary)]
    data: Vec<u8>,
}

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    number: i64,
}

/// Overwrites the unused room of some pages, from this one on, within the open transaction.
pub(super) fn overwrite_some(connection: &mut SqliteConnection, from: i64) -> Result<Overwritten, StoreError> {
    let pages = diesel::sql_query("SELECT page_count AS number FROM pragma_page_count");
    let pages = pages.get_result::<Count>(connection)?.number;
    if pages >= MAX_PAGES {
        return Ok(Overwritten::Unsupported);
    }
    let end = (from + PAGES_PER_TRANSACTION).min(pages + 1);
    for number in from..end {
        let read = diesel::sql_query("SELECT data FROM sqlite_dbpage WHERE pgno = ?").bind::<BigInt, _>(number);
        let mut page = match read.get_result::<Page>(connection) {
            Ok(page) => page,
            Err(QueryError::DatabaseError(_, info)) if info.message().contains("sqlite_dbpage") => {
                return Ok(Overwritten::Unsupported);
            }
            Err(error) => return Err(error.into()),
        };
        if clear_unused(&mut page.data, number) == Cleared::Something {
            diesel::sql_query("UPDATE sqlite_dbpage SET data = ? WHERE pgno = ?")
                .bind::<Binary, _>(&page.data)
                .bind::<BigInt, _>(number)
                .execute(connection)?;
        }
    }
    Ok(if end > pages { Overwritten::All } else { Overwritten::Before(end) })
}

/// Overwrites the unused room of all pages of a database that nobody waits for.
pub(crate) fn overwrite_all(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    let mut from = 1;
    loop {
        match connection.immediate_transaction(|connection| overwrite_some(connection, from))? {
            Overwritten::Before(next) => from = next,
            Overwritten::All => return Ok(()),
            Overwritten::Unsupported => {
                diesel::sql_query("VACUUM").execute(connection)?;
                return Ok(());
            }
        }
    }
}

/// Whether a page is another one now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cleared {
    Nothing,
    Something,
}

/// The length of the header of the database, which is in the first page.
const DATABASE_HEADER: usize = 100;

/// Overwrites what a page has between its list of rows and the first row, and between rows. A page without rows stays as
/// it is.
fn clear_unused(page: &mut [u8], number: i64) -> Cleared {
    let header = if number == 1 { DATABASE_HEADER } else { 0 };
    let unused = unused(page, header).unwrap_or_default();
    let mut cleared = Cleared::Nothing;
    for room in unused {
        let room = &mut page[room];
        if room.iter().any(|byte| *byte != 0) {
            room.fill(0);
            cleared = Cleared::Something;
        }
    }
    cleared
}

/// The parts of a page that nothing uses. `None` if it is no page with rows.
fn unused(page: &[u8], header: usize) -> Option<Vec<std::ops::Range<usize>>> {
    let number = |at: usize| Some(usize::from(u16::from_be_bytes([*page.get(at)?, *page.get(at + 1)?])));
    let list = header
        + match page.get(header)? {
            2 | 5 => 12,
            10 | 13 => 8,
            _ => return None,
        };
    let rows = number(header + 3)?;
    let content = match number(header + 5)? {
        0 => 65_536,
        content => content,
    };
    let end = list + 2 * rows;
    let is_row = |row: usize| number(list + 2 * row).is_some_and(|at| (content..page.len()).contains(&at));
    if end > content || content > page.len() || !(0..rows).all(is_row) {
        return None;
    }
    let mut unused = Vec::new();
    unused.push(end..content);
    let mut free = number(header + 1)?;
    while free != 0 {
        let (next, size) = (number(free)?, number(free + 2)?);
        // The first four bytes are the next free room and the size of this one.
        if free < content || size < 4 || free + size > page.len() || (next != 0 && next < free + size) {
            return None;
        }
        unused.push(free + 4..free + size);
        free = next;
    }
    Some(unused)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use diesel::connection::SimpleConnection as _;
    use diesel::sql_types::Text;

    use super::*;

    /// Numbers that look random, and are the same each time.
    struct Numbers(u64);

    impl Numbers {
        fn below(&mut self, limit: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % limit
        }
    }

    const TABLES: &str = "
        PRAGMA journal_mode = WAL;
        PRAGMA secure_delete = ON;
        CREATE TABLE events (position INTEGER NOT NULL PRIMARY KEY, key TEXT NOT NULL, body TEXT NOT NULL);
        CREATE INDEX events_by_key ON events (key);
        CREATE TABLE states (key TEXT NOT NULL PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID;";

    fn mark(key: u64) -> String {
        format!("MARK{key:05}|")
    }

    /// A database in which many rows have become longer and shorter, and every tenth key was deleted.
    fn database(path: &Path, seed: u64) -> SqliteConnection {
        let mut connection = SqliteConnection::establish(path.to_str().unwrap()).unwrap();
        connection.batch_execute(TABLES).unwrap();
        let mut numbers = Numbers(seed);
        connection
            .transaction::<_, QueryError, _>(|connection| {
                for _ in 0..3000 {
                    let key = numbers.below(200);
                    let length = [1, 2, 5, 20, 60, 300, 1000][usize::try_from(numbers.below(7)).unwrap()];
                    let body = mark(key).repeat(length);
                    for query in [
                        "INSERT INTO events (key, body) VALUES (?, ?)",
                        "INSERT INTO states (key, body) VALUES (?, ?) ON CONFLICT DO UPDATE SET body = excluded.body",
                    ] {
                        let query = diesel::sql_query(query).bind::<Text, _>(format!("{key:08x}"));
                        query.bind::<Text, _>(&body).execute(connection)?;
                    }
                }
                for key in (0..200).step_by(10) {
                    for query in ["UPDATE events SET body = '' WHERE key = ?", "DELETE FROM states WHERE key = ?"] {
                        diesel::sql_query(query).bind::<Text, _>(format!("{key:08x}")).execute(connection)?;
                    }
                }
                Ok(())
            })
            .unwrap();
        connection.batch_execute("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        connection
    }

    /// The deleted keys of which the file has something, and the number of those that are still there.
    fn found(path: &Path) -> (BTreeSet<u64>, usize) {
        let file = std::fs::read(path).unwrap();
        // Once through the file, since it is large.
        let marks = memchr::memmem::find_iter(&file, "MARK").filter_map(|at| {
            let digits = std::str::from_utf8(file.get(at + 4..at + 9)?).ok()?;
            digits.parse().ok().filter(|key| file[at..].starts_with(mark(*key).as_bytes()))
        });
        let (deleted, kept): (BTreeSet<_>, BTreeSet<u64>) = marks.partition(|key| key % 10 == 0);
        (deleted, kept.len())
    }

    fn content(connection: &mut SqliteConnection) -> Vec<String> {
        #[derive(QueryableByName)]
        struct Line {
            #[diesel(sql_type = Text)]
            line: String,
        }
        let queries = [
            "SELECT position || key || body AS line FROM events ORDER BY position",
            "SELECT key || body AS line FROM states ORDER BY key",
            "SELECT integrity_check AS line FROM pragma_integrity_check",
        ];
        let lines = |query: &&str| diesel::sql_query(*query).load::<Line>(connection).unwrap();
        queries.iter().flat_map(lines).map(|row| row.line).collect()
    }

    #[test]
    fn what_rows_left_behind_is_overwritten_and_all_other_rows_stay() {
        let directory = tempfile::tempdir().unwrap();
        let mut left_behind = 0;
        for seed in 0..8 {
            let path = directory.path().join(format!("{seed}.db"));
            let mut connection = database(&path, seed);
            left_behind += found(&path).0.len();
            let before = content(&mut connection);
            overwrite_all(&mut connection).unwrap();
            connection.batch_execute("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
            assert_eq!(found(&path), (BTreeSet::new(), 180), "seed {seed}");
            assert_eq!(content(&mut connection), before, "seed {seed}");
            assert_eq!(before.last().map(String::as_str), Some("ok"));
        }
        assert!(left_behind > 0, "SQLite overwrites everything itself");
    }

    /// As SQLite without `ENABLE_DBPAGE_VTAB` does, this one says that there is no such table.
    const WITHOUT_PAGES: &str = "
        PRAGMA writable_schema = ON;
        CREATE TEMP VIEW sqlite_dbpage AS SELECT pgno, data FROM missing_sqlite_dbpage;
        PRAGMA writable_schema = OFF";

    #[test]
    fn without_access_to_pages_the_file_is_written_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("test.db");
        let mut connection = database(&path, 0);
        assert!(!found(&path).0.is_empty());
        let before = content(&mut connection);
        connection.batch_execute(WITHOUT_PAGES).unwrap();
        assert_eq!(overwrite_some(&mut connection, 1).unwrap(), Overwritten::Unsupported);
        overwrite_all(&mut connection).unwrap();
        connection.batch_execute("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        assert_eq!(found(&path), (BTreeSet::new(), 180));
        assert_eq!(content(&mut connection), before);
    }

    #[test]
    fn a_page_that_is_not_one_of_rows_stays_as_it_is() {
        for page in [vec![0; 4096], vec![13; 4096], vec![2; 512], vec![10, 0, 0, 0, 1, 0, 9, 0, 0, 3, 7, 7], Vec::new()]
        {
            let mut cleared = page.clone();
            assert_eq!(clear_unused(&mut cleared, 2), Cleared::Nothing, "{page:?}");
            assert_eq!(cleared, page);
        }
    }

    #[test]
    fn the_room_between_the_list_and_the_rows_is_unused() {
        let mut page = vec![7; 32];
        // One row at 28, and free room of 8 bytes at 20.
        page[..10].copy_from_slice(&[13, 0, 20, 0, 1, 0, 20, 0, 0, 28]);
        page[20..24].copy_from_slice(&[0, 0, 0, 8]);
        assert_eq!(clear_unused(&mut page, 2), Cleared::Something);
        assert_eq!(page[10..20], [0; 10]);
        assert_eq!(page[20..], [0, 0, 0, 8, 0, 0, 0, 0, 7, 7, 7, 7]);
        assert_eq!(clear_unused(&mut page, 2), Cleared::Nothing);
    }
}
