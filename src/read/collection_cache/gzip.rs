//! Bodies compressed with gzip ([RFC 1952](https://www.rfc-editor.org/rfc/rfc1952)), a piece at a time.
//!
//! A piece is compressed by itself and ends on a whole byte, so that what it becomes can stand anywhere in a stream, and is
//! shared as the piece is: one change costs the compression of one piece.

use std::sync::Arc;

use actix_web::web::Bytes;
use flate2::{Compress, Compression, Crc, FlushCompress, Status};
use tokio::sync::oneshot;

use super::body::Body;
use crate::events::memory_budget::{BudgetExceeded, MemoryBudget};

/// The text of a piece, compressed.
pub(super) struct Deflated {
    bytes: Bytes,
    /// Of the text.
    crc: Crc,
}

/// A body, compressed: a head, its pieces, and what closes it.
pub(crate) struct Gzip {
    pieces: Vec<Bytes>,
    end: Bytes,
    /// In bytes.
    size: usize,
}

/// No name, no time, no system: the bytes follow from the text.
const HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

/// How hard to try, of 9: a quarter of a millisecond for a piece. At 6, names and cities take twice as long and get 2 % smaller.
const LEVEL: u32 = 4;

/// How far the compression of a body is.
#[derive(Default)]
pub(super) enum Zipping {
    #[default]
    NotBegun,
    /// Somebody is at it; these wait.
    Begun(Vec<oneshot::Sender<Arc<Gzip>>>),
    Done(Arc<Gzip>),
    /// There was no room in the budget.
    GivenUp,
}

/// What there is of a compressed body.
pub(crate) enum Zipped {
    Here(Arc<Gzip>),
    /// It comes, or else the channel is closed; `zip` is to be run by somebody, if it is there.
    Pending {
        answer: oneshot::Receiver<Arc<Gzip>>,
        zip: Option<Zip>,
    },
    /// It is sent as it is.
    Plain,
}

/// The order to compress a body. Dropped without being run, those who wait are told.
pub(crate) struct Zip {
    body: Arc<Body>,
    budget: Arc<MemoryBudget>,
}

impl Body {
    /// Itself compressed; at most one at a time is at it.
    pub(super) fn zipped(self: &Arc<Self>, budget: &Arc<MemoryBudget>) -> Zipped {
        let (sender, answer) = oneshot::channel();
        let mut zipping = self.zipping.lock().expect("nobody panics while holding it");
        match &mut *zipping {
            Zipping::Done(gzip) => Zipped::Here(Arc::clone(gzip)),
            Zipping::GivenUp => Zipped::Plain,
            Zipping::Begun(waiting) => {
                waiting.push(sender);
                Zipped::Pending { answer, zip: None }
            }
            Zipping::NotBegun => {
                *zipping = Zipping::Begun(vec![sender]);
                let zip = Zip { body: Arc::clone(self), budget: Arc::clone(budget) };
                Zipped::Pending { answer, zip: Some(zip) }
            }
        }
    }
}

impl Zip {
    /// Compresses what is not compressed yet. Takes long.
    pub(crate) fn run(self) {
        let outcome = Gzip::new(&self.body, &self.budget).map(Arc::new);
        let after = outcome.as_ref().map_or(Zipping::GivenUp, |gzip| Zipping::Done(Arc::clone(gzip)));
        let before = std::mem::replace(&mut *self.body.zipping.lock().expect("nobody panics while holding it"), after);
        if let (Zipping::Begun(waiting), Ok(gzip)) = (before, outcome) {
            for waiting in waiting {
                // A client that has gone needs none.
                drop(waiting.send(Arc::clone(&gzip)));
            }
        }
    }
}

impl Drop for Zip {
    fn drop(&mut self) {
        let mut zipping = self.body.zipping.lock().expect("nobody panics while holding it");
        if matches!(*zipping, Zipping::Begun(_)) {
            *zipping = Zipping::NotBegun;
        }
    }
}

impl Gzip {
    fn new(body: &Body, budget: &Arc<MemoryBudget>) -> Result<Self, BudgetExceeded> {
        let (mut pieces, mut crc) = (Vec::with_capacity(body.pieces().len()), Crc::new());
        for piece in body.pieces() {
            let mut deflated = piece.deflated.lock().expect("nobody panics while compressing");
            let deflated = match &mut *deflated {
                Some(deflated) => deflated,
                none => none.insert(Deflated::new(piece.text(), budget)?),
            };
            crc.combine(&deflated.crc);
            pieces.push(deflated.bytes.clone());
        }
        crc.update(body.end());
        let mut end = deflate(body.end(), FlushCompress::Finish);
        end.extend_from_slice(&crc.sum().to_le_bytes());
        end.extend_from_slice(&crc.amount().to_le_bytes());
        let size = HEAD.len() + pieces.iter().map(Bytes::len).sum::<usize>() + end.len();
        Ok(Self { pieces, end: end.into(), size })
    }

    /// In bytes.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// The stream in chunks.
    pub(super) fn chunk(&self, index: usize) -> Option<Bytes> {
        let Some(index) = index.checked_sub(1) else { return Some(Bytes::from_static(&HEAD)) };
        match self.pieces.get(index) {
            Some(piece) => Some(piece.clone()),
            None => (index == self.pieces.len()).then(|| self.end.clone()),
        }
    }
}

impl Deflated {
    fn new(text: &[u8], budget: &Arc<MemoryBudget>) -> Result<Self, BudgetExceeded> {
        let mut crc = Crc::new();
        crc.update(text);
        Ok(Self { bytes: budget.allocate(deflate(text, FlushCompress::Sync), 0)?, crc })
    }
}

/// Compresses a text as a part of a stream, to a whole number of bytes; with `Finish`, as the last one.
fn deflate(text: &[u8], flush: FlushCompress) -> Vec<u8> {
    let mut compress = Compress::new(Compression::new(LEVEL), false);
    let mut compressed = Vec::with_capacity(text.len() / 4 + 64);
    loop {
        let consumed = usize::try_from(compress.total_in()).expect("the text is in memory");
        let status = compress.compress_vec(&text[consumed..], &mut compressed, flush);
        let status = status.expect("any bytes can be compressed");
        // There was room left, so nothing was held back.
        if status == Status::StreamEnd || compressed.len() < compressed.capacity() {
            return compressed;
        }
        compressed.reserve(compressed.len());
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn parts_that_are_compressed_one_by_one_are_one_stream() {
        for length in [0_usize, 1, 100, 1000, 10_000, 100_000] {
            let noise: Vec<u8> = (0..length).map(|at| u8::try_from(at * at / 7 % 251).unwrap()).collect();
            let mut stream: Vec<u8> = HEAD.to_vec();
            let mut crc = Crc::new();
            for part in [&noise[..], b"text text text text", &noise[..length / 2]] {
                let deflated = Deflated::new(part, &MemoryBudget::new(usize::MAX)).unwrap();
                stream.extend_from_slice(&deflated.bytes);
                crc.combine(&deflated.crc);
            }
            stream.extend(deflate(b"", FlushCompress::Finish));
            stream.extend(crc.sum().to_le_bytes());
            stream.extend(crc.amount().to_le_bytes());
            let mut text = Vec::new();
            flate2::read::GzDecoder::new(&stream[..]).read_to_end(&mut text).unwrap();
            assert_eq!(text, [&noise[..], b"text text text text", &noise[..length / 2]].concat());
        }
    }
}
