//! How much memory SQLite may take for the pages that it keeps, by connection.

/// What a connection to a file beside the main database keeps at most, in bytes: SQLite's default.
pub(super) const SIDECAR_CACHE: usize = 2000 * 1024;

/// What the writer keeps at most, and what is too little for it, in bytes.
const WRITER_CACHE: (usize, usize) = (1024 * 1024, 64 * 1024 * 1024);

/// What a reader of the main database keeps at most, and what is too little for it, in bytes.
const READER_CACHE: (usize, usize) = (256 * 1024, SIDECAR_CACHE);

/// How many connections a service has at most, beside that of its writer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Connections {
    /// To the main database.
    pub(crate) readers: usize,
    /// To the files of projections.
    pub(crate) sidecars: usize,
}

/// The limit of the page cache of each connection to the main database, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PageCaches {
    pub(super) writer: usize,
    pub(super) reader: usize,
}

impl PageCaches {
    /// For a task of the command line, which has few connections.
    pub(super) const OF_TASK: Self = Self { writer: WRITER_CACHE.1, reader: READER_CACHE.1 };

    /// Divides `total` bytes between the connections of a service. The readers get up to a half of what the sidecars leave,
    /// and the writer gets the rest.
    ///
    /// # Errors
    /// It is too little; the least number of bytes.
    pub(crate) fn divide(total: usize, connections: Connections) -> Result<Self, usize> {
        let Connections { readers, sidecars } = connections;
        let sidecars = sidecars * SIDECAR_CACHE;
        let readers = readers.max(1);
        let least = sidecars + (2 * readers * READER_CACHE.0).max(readers * READER_CACHE.0 + WRITER_CACHE.0);
        let rest = total.checked_sub(sidecars).filter(|_| total >= least).ok_or(least)?;
        let for_readers = (rest / 2).min(rest - WRITER_CACHE.0);
        let reader = (for_readers / readers).min(READER_CACHE.1);
        let writer = (rest - readers * reader).min(WRITER_CACHE.1);
        Ok(Self { writer, reader })
    }

    /// What all connections may keep, in bytes.
    pub(crate) fn sum(self, Connections { readers, sidecars }: Connections) -> usize {
        self.writer + readers * self.reader + sidecars * SIDECAR_CACHE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caches_take_no_more_than_the_total_and_no_less_than_they_need() {
        for (readers, sidecars) in [(1, 0), (9, 12), (200, 0), (30, 61)] {
            let connections = Connections { readers, sidecars };
            let least = PageCaches::divide(0, connections).unwrap_err();
            assert!(PageCaches::divide(least - 1, connections).is_err(), "{connections:?}");
            for total in [least, least + 1, least * 2, 96 << 20, 1 << 40] {
                let Ok(caches) = PageCaches::divide(total, connections) else { continue };
                assert!(caches.sum(connections) <= total, "{connections:?} {total}: {caches:?}");
                assert!(caches.writer >= WRITER_CACHE.0 && caches.reader >= READER_CACHE.0, "{total}: {caches:?}");
            }
            assert_eq!(PageCaches::divide(1 << 40, connections), Ok(PageCaches::OF_TASK));
        }
    }
}
