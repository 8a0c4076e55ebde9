//! Compression with gzip ([RFC 1952](https://www.rfc-editor.org/rfc/rfc1952)) within a memory budget.

use std::io::{self, Write};
use std::sync::Arc;

use actix_web::web::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::memory::budget::{MemoryBudget, Reservation};

/// From 0 to 9: about 10 ms for a megabyte. At 6, names and cities take twice as long and become only 2 % smaller.
const LEVEL: u32 = 4;

/// The compressed text, or `None` if the budget has no room for it. The result depends on the text only: the header has
/// no name and no time.
pub(super) fn compress(text: &[u8], budget: &Arc<MemoryBudget>) -> Option<Bytes> {
    let buffer = Buffer { bytes: Vec::new(), reservation: budget.reservation() };
    let mut encoder = GzEncoder::new(buffer, Compression::new(LEVEL));
    // The buffer returns the only errors.
    encoder.write_all(text).ok()?;
    let Buffer { bytes, reservation } = encoder.finish().ok()?;
    Some(Bytes::from_owner(reservation.hold(bytes)))
}

/// A compressed text that is part of the program or follows from it, so that nobody can make it larger.
pub(crate) fn compress_constant(text: &[u8]) -> Bytes {
    compress(text, &MemoryBudget::new(usize::MAX)).unwrap_or_default()
}

/// A buffer that reserves its length in the budget.
struct Buffer {
    bytes: Vec<u8>,
    reservation: Reservation,
}

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.bytes.len() + bytes.len();
        self.reservation.resize(length).map_err(|_| io::ErrorKind::OutOfMemory)?;
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn compressed_text_counts_against_the_budget_and_decompresses_to_the_same() {
        let text: Vec<u8> = (0..100_000_u32).flat_map(|number| number.to_string().into_bytes()).collect();
        let budget = MemoryBudget::new(1_000_000);
        let compressed = compress(&text, &budget).unwrap();
        assert_eq!(budget.limit() - budget.free(), compressed.len());
        let mut decompressed = Vec::new();
        flate2::read::GzDecoder::new(&compressed[..]).read_to_end(&mut decompressed).unwrap();
        assert!(decompressed == text);
        drop(compressed);
        assert_eq!(budget.free(), budget.limit());
    }

    #[test]
    fn text_that_does_not_fit_the_budget_is_not_compressed() {
        let budget = MemoryBudget::new(1000);
        let noise: Vec<u8> =
            (0..100_000_u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
        assert!(compress(&noise, &budget).is_none());
        assert_eq!(budget.free(), 1000);
    }
}
