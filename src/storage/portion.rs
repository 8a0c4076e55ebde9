//! How many rows one transaction overwrites or deletes, when each can be as large as an aggregate: no command waits for long,
//! and the write-ahead log does not grow by much.

/// The bytes that one transaction overwrites or deletes, approximately: the last row may exceed it.
pub(super) const BYTES_PER_TRANSACTION: i64 = 4 * 1024 * 1024;

/// The first of some rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Portion {
    /// The number of rows.
    pub(super) rows: usize,
    /// What identifies the last of them.
    pub(super) last: i64,
    /// Their bytes.
    pub(super) bytes: i64,
}

impl Portion {
    /// As many of the first rows as one transaction takes, at least one. Each row is what identifies it, and its bytes.
    /// `None` without any row.
    pub(super) fn of(rows: impl IntoIterator<Item = (i64, i64)>) -> Option<Self> {
        let mut portion: Option<Self> = None;
        for (last, bytes) in rows {
            let Self { rows, bytes: before, .. } = portion.unwrap_or(Self { rows: 0, last, bytes: 0 });
            let taken = Self { rows: rows + 1, last, bytes: before + bytes };
            portion = Some(taken);
            if taken.bytes >= BYTES_PER_TRANSACTION {
                break;
            }
        }
        portion
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_portion_ends_with_the_row_that_fills_it_and_has_at_least_one() {
        const HALF: i64 = BYTES_PER_TRANSACTION / 2;
        for (rows, expected) in [
            (&[][..], None),
            (&[(7, 0)], Some((1, 7, 0))),
            (&[(1, 5), (3, 6)], Some((2, 3, 11))),
            (&[(1, 9 * HALF), (2, 1)], Some((1, 1, 9 * HALF))),
            (&[(1, HALF), (2, HALF), (3, 1)], Some((2, 2, 2 * HALF))),
            (&[(1, HALF), (2, HALF - 1), (3, HALF), (4, 0)], Some((3, 3, 3 * HALF - 1))),
        ] {
            let portion = Portion::of(rows.iter().copied());
            assert_eq!(portion.map(|Portion { rows, last, bytes }| (rows, last, bytes)), expected, "{rows:?}");
        }
    }
}
