//! A run of consecutive aggregates of a collection as the text that stands in its body.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use actix_web::web::Bytes;

use super::gzip::Deflated;
use crate::domain::feed::push_member;
use crate::domain::key::Key;
use crate::events::memory_budget::{BudgetExceeded, MemoryBudget};

/// A run of consecutive members: `{"1":{…},"2":{…}` for the first of a body, `,"3":{…}` for any other.
pub(super) struct Piece {
    /// The key of the first member.
    first: Key,
    text: Bytes,
    /// Where each member begins, in bytes.
    starts: Box<[u32]>,
    /// The same compressed, once somebody wanted it.
    pub(super) deflated: Mutex<Option<Deflated>>,
}

/// The length that a piece is made with, in bytes. With two of them what the framework writes at once is full; smaller
/// ones would make more of them, larger ones more to copy when one aggregate changes.
const LENGTH: usize = 24 * 1024;

/// A piece that has become longer than this is cut into some, in bytes.
const LONGEST: usize = 32 * 1024;

/// What a piece takes beside its text and its list of members, in bytes, allocations included.
const OVERHEAD: usize = 256;

/// What became of an aggregate: its state, or `None` when it is gone.
pub(super) type Edit = (Key, Option<String>);

impl Piece {
    pub(super) fn first(&self) -> &Key {
        &self.first
    }

    pub(super) fn text(&self) -> &Bytes {
        &self.text
    }

    /// The number of members.
    pub(super) fn len(&self) -> usize {
        self.starts.len()
    }

    /// What it takes beside its text, in bytes.
    pub(super) fn beside(&self) -> usize {
        size_of_val(&*self.starts) + OVERHEAD
    }

    fn str(&self) -> &str {
        std::str::from_utf8(&self.text).expect("a piece is made of texts")
    }

    /// Where a member stands in the text, without what separates it from the next.
    fn range(&self, index: usize) -> Range<usize> {
        let end = self.starts.get(index + 1).map_or(self.text.len(), |next| *next as usize - 1);
        self.starts[index] as usize..end
    }

    /// The key of a member, read from the text: to keep it beside the text would double what small aggregates take.
    fn key(&self, index: usize) -> Key {
        let member = &self.text[self.range(index)];
        let mut is_escaped = false;
        let end = member.iter().skip(1).position(|byte| match byte {
            b'"' if !is_escaped => true,
            byte => {
                is_escaped = *byte == b'\\' && !is_escaped;
                false
            }
        });
        let quoted = &member[..end.expect("a key ends with a quote") + 2];
        let key: String = serde_json::from_slice(quoted).expect("a key is a JSON string");
        Key::from_db(&key)
    }

    /// The member with this key, or else the one before which it would stand.
    fn find(&self, key: &Key) -> Result<usize, usize> {
        let (mut from, mut to) = (0, self.len());
        while from < to {
            let middle = usize::midpoint(from, to);
            match self.key(middle).cmp(key) {
                std::cmp::Ordering::Less => from = middle + 1,
                std::cmp::Ordering::Equal => return Ok(middle),
                std::cmp::Ordering::Greater => to = middle,
            }
        }
        Err(from)
    }

    /// What the piece becomes by some edits, in the order of their keys: none, one or some.
    pub(super) fn edited(
        &self,
        edits: &[Edit],
        place: Place,
        budget: &Arc<MemoryBudget>,
    ) -> Result<Vec<Arc<Self>>, BudgetExceeded> {
        let text = self.str();
        let longest = text.len() + edits.iter().map(|(key, body)| added(key, body.as_deref())).sum::<usize>();
        let length = if longest <= LONGEST { usize::MAX } else { longest / (longest / LENGTH + 1) };
        let mut cutter = Cutter::new(length, place, budget);
        let mut next = 0;
        for (key, body) in edits {
            let (at, after) = self.find(key).map_or_else(|at| (at, at), |at| (at, at + 1));
            for index in next..at {
                cutter.copy(self, text, index)?;
            }
            if let Some(body) = body {
                cutter.push(key.as_str(), body)?;
            }
            next = after;
        }
        for index in next..self.len() {
            cutter.copy(self, text, index)?;
        }
        cutter.finish()
    }

    /// The same as the first of a body, which it has become.
    pub(super) fn opening(&self, budget: &Arc<MemoryBudget>) -> Result<Arc<Self>, BudgetExceeded> {
        let mut text = self.text.to_vec();
        text[0] = b'{';
        made(self.first.clone(), text, self.starts.clone(), budget)
    }

    /// Whether it is the first of a body.
    pub(super) fn is_opening(&self) -> bool {
        self.text[0] == b'{'
    }
}

/// How much an edit adds to a text at most, in bytes; a key that has to be escaped may add more.
fn added(key: &Key, body: Option<&str>) -> usize {
    body.map_or(0, |body| key.as_str().len() + body.len() + 4)
}

fn made(
    first: Key,
    text: Vec<u8>,
    starts: Box<[u32]>,
    budget: &Arc<MemoryBudget>,
) -> Result<Arc<Piece>, BudgetExceeded> {
    let text = budget.allocate(text, size_of_val(&*starts) + OVERHEAD)?;
    Ok(Arc::new(Piece { first, text, starts, deflated: Mutex::new(None) }))
}

/// Where in a body a piece stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    First,
    Later,
}

/// Makes pieces of members, which come in the order of their keys.
pub(super) struct Cutter<'a> {
    /// A piece ends as soon as it has so many bytes.
    length: usize,
    place: Place,
    budget: &'a Arc<MemoryBudget>,
    pieces: Vec<Arc<Piece>>,
    text: String,
    starts: Vec<u32>,
    first: Option<Key>,
}

impl<'a> Cutter<'a> {
    fn new(length: usize, place: Place, budget: &'a Arc<MemoryBudget>) -> Self {
        let (pieces, text, starts) = (Vec::new(), String::new(), Vec::new());
        Self { length, place, budget, pieces, text, starts, first: None }
    }

    /// For a body from its beginning.
    pub(super) fn anew(budget: &'a Arc<MemoryBudget>) -> Self {
        Self::new(LENGTH, Place::First, budget)
    }

    /// Adds a member.
    pub(super) fn push(&mut self, key: &str, body: &str) -> Result<(), BudgetExceeded> {
        self.begin(|| Key::from_db(key));
        push_member(&mut self.text, key, body);
        self.end()
    }

    /// Adds a member of a piece, whose text is given.
    fn copy(&mut self, piece: &Piece, text: &str, index: usize) -> Result<(), BudgetExceeded> {
        self.begin(|| piece.key(index));
        self.text.push_str(&text[piece.range(index)]);
        self.end()
    }

    fn begin(&mut self, key: impl FnOnce() -> Key) {
        let opens = self.pieces.is_empty() && self.text.is_empty() && self.place == Place::First;
        self.text.push(if opens { '{' } else { ',' });
        self.starts.push(u32::try_from(self.text.len()).expect("a text of SQLite has less than 1 GB"));
        if self.first.is_none() {
            self.first = Some(key());
        }
    }

    fn end(&mut self) -> Result<(), BudgetExceeded> {
        if self.text.len() >= self.length { self.cut() } else { Ok(()) }
    }

    fn cut(&mut self) -> Result<(), BudgetExceeded> {
        let Some(first) = self.first.take() else { return Ok(()) };
        let (text, starts) = (std::mem::take(&mut self.text), std::mem::take(&mut self.starts));
        self.pieces.push(made(first, text.into_bytes(), starts.into(), self.budget)?);
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<Vec<Arc<Piece>>, BudgetExceeded> {
        self.cut()?;
        Ok(self.pieces)
    }
}
