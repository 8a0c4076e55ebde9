//! The bodies of requests: read within a deadline and at a least rate, and charged from their first byte.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::http::header::RETRY_AFTER;
use actix_web::rt::time::timeout;
use actix_web::web::{self, Bytes};
use futures_core::Stream as _;
use serde_json::Value;

use super::problem::{Kind, Problem};
use crate::domain::command::Change;
use crate::domain::json;
use crate::memory::budget::BudgetExceeded;
use crate::memory::fair_shares::{FairShares, Share};

/// What a request takes beside its body, in bytes: its head, its command and its reply.
const OVERHEAD: usize = 1024;

/// The size of a parsed value without its text, in bytes. A list of values has room for up to as many again.
const VALUE: usize = 2 * size_of::<Value>();

/// The memory of a command for each byte of the state that it writes: the state, the change event, and the response.
const COPIES: usize = 3;

/// The bytes that give a client another second.
const LEAST_RATE: usize = 16 * 1024;

/// What a body may take.
#[derive(Debug)]
pub(crate) struct BodyLimits {
    /// The maximum size, in bytes.
    pub(crate) max: usize,
    /// The time until a body has to be complete, to which each 16 KiB of it add a second; and the longest pause.
    pub(crate) timeout: Duration,
    /// The memory of all bodies and commands.
    pub(crate) memory: Arc<FairShares>,
}

/// A body that has arrived.
pub(super) struct RequestBody {
    bytes: Bytes,
    charge: Share,
}

/// A body that was parsed. The charge counts until its command is answered.
pub(super) struct ParsedBody {
    pub(super) json: Value,
    pub(super) charge: Share,
}

/// The framework does not say more.
fn incomplete() -> Problem {
    let detail =
        "the body cannot be read; expected as many bytes as Content-Length says, or chunks as in RFC 9112, section 7.1";
    Problem::new(Kind::MalformedRequest, detail)
}

impl BodyLimits {
    /// Reads a body. `announced` is its length according to its head, in bytes; 0 if that says nothing.
    ///
    /// # Errors
    /// It is too large or too slow, or cannot be read; or there is no memory for it at the moment.
    pub(super) async fn receive(
        &self,
        mut payload: web::Payload,
        announced: usize,
        mut charge: Share,
    ) -> Result<RequestBody, Problem> {
        if announced > self.longest() {
            return Err(self.too_large());
        }
        let started = Instant::now();
        charge.resize(OVERHEAD).map_err(busy)?;
        let mut body = Collected::default();
        loop {
            let allowed = self.timeout + Duration::from_secs((body.len() / LEAST_RATE) as u64);
            let next = poll_fn(|context| Pin::new(&mut payload).poll_next(context));
            let patience = allowed.saturating_sub(started.elapsed()).min(self.timeout);
            let next = timeout(patience, next).await.map_err(|_| too_slow())?;
            let Some(chunk) = next else { return Ok(RequestBody { bytes: body.into_bytes(), charge }) };
            let chunk = chunk.map_err(|_| incomplete())?;
            if body.len() + chunk.len() > self.longest() {
                return Err(self.too_large());
            }
            let capacity = body.capacity_with(&chunk, announced);
            charge.resize(OVERHEAD + capacity).map_err(busy)?;
            body.add(chunk, capacity);
        }
    }

    /// The longest body that there can be memory for.
    fn longest(&self) -> usize {
        self.max.min(self.memory.max().saturating_sub(OVERHEAD))
    }

    fn too_large(&self) -> Problem {
        let limit = self.longest();
        Problem::new(Kind::TooLarge, format!("the body is larger than {limit} bytes")).with("limit", limit)
    }

    /// Charges for a parsed body, before it is parsed.
    ///
    /// # Errors
    /// The parsed values have no room in memory, at all or at the moment.
    pub(super) fn charge_parsed(&self, body: &mut RequestBody) -> Result<(), Problem> {
        let weight = OVERHEAD + parsed_weight(&body.bytes);
        let most = self.memory.max();
        if weight > most {
            let detail =
                format!("the body has too many values: parsed, it would take {weight} bytes of at most {most}");
            return Err(Problem::new(Kind::TooLarge, detail).with("limit", self.max));
        }
        body.charge.resize(weight).map_err(busy)
    }
}

impl RequestBody {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Parses a body that is [charged](BodyLimits::charge_parsed) for that.
    ///
    /// # Errors
    /// It is invalid.
    pub(super) fn parse(self) -> Result<ParsedBody, Problem> {
        Ok(ParsedBody { json: json::parse(&self.bytes)?, charge: self.charge })
    }

    /// What it counts for, when it was read.
    pub(super) fn into_charge(self) -> Share {
        self.charge
    }

    /// A body in the place of an empty one.
    pub(super) fn replace(self, json: Value) -> ParsedBody {
        ParsedBody { json, charge: self.charge }
    }
}

/// Charges for a change in the place of the JSON from which it was made.
pub(super) fn charge_change(charge: &mut Share, change: &Change) {
    let size = match change {
        Change::Create(body) | Change::Replace(body) | Change::Put(body) => OVERHEAD + COPIES * body.as_str().len(),
        Change::Delete | Change::Erase => OVERHEAD,
        // The values of a patch, and the fields of a command, which take no more.
        Change::Patch(_) | Change::Handle { .. } => charge.size(),
    };
    // The text of a document can be longer than what the client sent, for example with default values. It exists already.
    let _ = charge.resize(size);
}

/// An upper estimate of what a text takes while it is parsed, in bytes: the text, its strings, and a value for each
/// separator. `[1,1,…]` takes 72 bytes for each of its own, and a state of names and texts takes 2 to 4.
fn parsed_weight(text: &[u8]) -> usize {
    let values = 1 + text.iter().filter(|byte| matches!(byte, b',' | b'[' | b'{')).count();
    2 * text.len() + VALUE * values
}

/// The chunks of a body.
#[derive(Default)]
struct Collected {
    /// A body that came at once is not copied.
    first: Bytes,
    rest: Vec<u8>,
}

impl Collected {
    fn len(&self) -> usize {
        self.first.len() + self.rest.len()
    }

    /// The room for everything so far and another chunk: at least a half of it is used.
    fn capacity_with(&self, chunk: &Bytes, announced: usize) -> usize {
        let needed = self.len() + chunk.len();
        if needed <= self.rest.capacity() || self.len() == 0 {
            return self.rest.capacity().max(needed);
        }
        needed.next_power_of_two().min(announced.max(needed))
    }

    fn add(&mut self, chunk: Bytes, capacity: usize) {
        if self.len() == 0 {
            self.first = chunk;
            return;
        }
        self.rest.reserve_exact(capacity - self.rest.len());
        self.rest.extend_from_slice(&std::mem::take(&mut self.first));
        self.rest.extend_from_slice(&chunk);
    }

    fn into_bytes(self) -> Bytes {
        if self.rest.is_empty() { self.first } else { self.rest.into() }
    }
}

fn too_slow() -> Problem {
    Problem::new(Kind::TooSlow, "the body did not arrive in time")
}

fn busy(_: BudgetExceeded) -> Problem {
    let detail = "nothing was done: request bodies and waiting commands have no more memory";
    Problem::new(Kind::Busy, detail).header(RETRY_AFTER.as_str(), "1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_in_chunks_is_put_together_in_no_more_than_twice_its_size() {
        for announced in [0, 20_000] {
            let mut body = Collected::default();
            for (sent, byte) in (0_u8..20).enumerate() {
                let chunk = Bytes::from(vec![byte; 1000]);
                let capacity = body.capacity_with(&chunk, announced);
                body.add(chunk, capacity);
                assert_eq!(body.len(), 1000 * (sent + 1));
                assert!(body.rest.capacity() <= capacity && capacity <= 2 * body.len(), "{sent}: {capacity}");
            }
            let bytes = body.into_bytes();
            assert!(bytes.chunks(1000).zip(0_u8..).all(|(chunk, byte)| chunk == [byte; 1000]));
        }
    }

    #[test]
    fn a_parsed_body_weighs_more_with_more_values() {
        let weight = |text: &str| parsed_weight(text.as_bytes());
        let text = format!("{:?}", "x".repeat(1000));
        assert_eq!(weight(&text), 2 * text.len() + VALUE);
        assert_eq!(weight("[1,1,1]") - weight("[1111]"), 2 + 2 * VALUE);
        assert!(weight(r#"{"a":{"b":[]}}"#) >= 3 * VALUE);
    }
}
