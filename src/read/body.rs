//! The text of a whole collection at one revision, with an index of its members.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use actix_web::web::Bytes;
use serde::Deserialize as _;
use tokio::sync::OnceCell;

use crate::domain::feed::push_member;
use crate::domain::key::{CollectionId, Key};
use crate::domain::revision::Revision;
use crate::memory::budget::{BudgetExceeded, MemoryBudget, Reservation, Tracked};
use crate::storage::counters::Horizon;
use crate::storage::error::StoreError;
use crate::storage::page::{PageLimit, Span};
use crate::storage::reader::View;

/// `{"1":{…},"2":{…}}`, byte for byte what a scan of the table returns. Immutable.
pub(super) struct Body {
    /// The revision of the collection's last change.
    changed: Revision,
    text: Arc<Tracked>,
    /// The offset of each member in the text, in bytes.
    starts: Box<[u32]>,
    /// The compressed text, once a client has requested it; `None` inside if the budget had no room for it.
    gzip: OnceCell<Option<Bytes>>,
}

/// Why a body was not built.
#[derive(Debug)]
pub(super) enum BuildError {
    BudgetExceeded,
    Store(StoreError),
}

/// The memory that a body may take.
#[derive(Clone, Copy)]
pub(super) struct Room<'a> {
    pub(super) budget: &'a Arc<MemoryBudget>,
    /// Tries to free memory; `false` if there is nothing left to free.
    pub(super) evict: &'a dyn Fn() -> bool,
}

/// The longest text of changed aggregates that is read to update a body, in bytes. After more changes, a scan of the
/// whole collection is as fast.
const MAX_EDITS: usize = 4 * 1024 * 1024;

/// The size of a body without its text and its index, allocations included, in bytes.
const OVERHEAD: usize = 256;

/// A body that is built from a scan reserves memory in steps of this size, in bytes.
const STEP: usize = 64 * 1024;

impl Body {
    /// Reads all of a collection.
    pub(super) fn read(view: &mut View<'_>, collection: CollectionId, room: Room<'_>) -> Result<Self, BuildError> {
        let changed = view.last_change(&[collection])?;
        let mut builder = BodyBuilder::new(room);
        view.scan(collection, |key, body| Ok::<_, BuildError>(builder.push(key, body)?))?;
        Ok(builder.finish(changed)?)
    }

    /// The body at the view's horizon, from this one, which is exact at the revision `exact_at`, and from the aggregates
    /// that have changed since. `None` if a scan is necessary.
    pub(super) fn updated(
        &self,
        exact_at: Revision,
        horizon: &Horizon,
        view: &mut View<'_>,
        collection: CollectionId,
        room: Room<'_>,
    ) -> Result<Option<Self>, BuildError> {
        // Pruned deletions have left no row.
        if horizon.forgotten > exact_at {
            return Ok(None);
        }
        let limit = PageLimit { items: self.starts.len() / 2 + 100, bytes: MAX_EDITS };
        let Some(edits) = view.changed_of(collection, Span { after: exact_at, to: horizon.current }, limit)? else {
            return Ok(None);
        };
        Ok(Some(self.edited(&edits, view.last_change(&[collection])?, room)?))
    }

    /// The body after some edits: the new state of each aggregate, or `None` for a deleted one.
    fn edited(
        &self,
        edits: &BTreeMap<Key, Option<String>>,
        changed: Revision,
        room: Room<'_>,
    ) -> Result<Self, BudgetExceeded> {
        let mut builder = BodyBuilder::new(room);
        let added = edits.iter().map(|(key, body)| member_size(key, body.as_deref())).sum::<usize>();
        builder.reserve(self.text().len() + added, self.starts.len() + edits.len())?;
        let mut next = 0;
        for (key, body) in edits {
            let (at, after) = match self.find(key, next) {
                Ok(found) => (found, found + 1),
                Err(insertion) => (insertion, insertion),
            };
            builder.copy(self, next..at)?;
            if let Some(body) = body {
                builder.push(key.as_str(), body)?;
            }
            next = after;
        }
        builder.copy(self, next..self.starts.len())?;
        builder.finish(changed)
    }

    /// The index of the member with this key, or else where it would be inserted; not before the index `from`.
    fn find(&self, key: &Key, mut from: usize) -> Result<usize, usize> {
        let mut to = self.starts.len();
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

    /// The key of a member, read from the text: a copy in the index would double the size of small aggregates.
    fn key(&self, index: usize) -> Key {
        let rest = &self.text()[self.starts[index] as usize..];
        let key = String::deserialize(&mut serde_json::Deserializer::from_slice(rest));
        Key::from_db(&key.expect("each member starts with its key, which is a JSON string"))
    }

    /// The part of the text with some members, and the commas between them.
    fn range(&self, members: &Range<usize>) -> Range<usize> {
        let end = self.starts.get(members.end).map_or(self.text().len(), |next| *next as usize);
        // Without the comma or brace after the last one.
        self.starts[members.start] as usize..end - 1
    }

    pub(super) fn changed(&self) -> Revision {
        self.changed
    }

    /// The text for a response.
    pub(super) fn share_text(&self) -> Bytes {
        self.text.share()
    }

    pub(super) fn text(&self) -> &[u8] {
        (*self.text).as_ref()
    }

    /// Whether a response holds the text.
    pub(super) fn is_in_use(&self) -> bool {
        Arc::strong_count(&self.text) > 1
    }

    pub(super) fn gzip(&self) -> &OnceCell<Option<Bytes>> {
        &self.gzip
    }

    /// The size in memory without the compressed text, in bytes.
    pub(super) fn size(&self) -> usize {
        size(self.text().len(), self.starts.len())
    }
}

/// The size in memory of a body with a text of this many bytes and this many members.
pub(super) fn size(text: usize, members: usize) -> usize {
    text + members * size_of::<u32>() + OVERHEAD
}

/// The length of a member in the text, in bytes. A key that has to be escaped may need more.
fn member_size(key: &Key, body: Option<&str>) -> usize {
    body.map_or(0, |body| key.as_str().len() + body.len() + r#""":,"#.len())
}

/// Builds a body from members in the order of their keys.
struct BodyBuilder<'a> {
    text: Vec<u8>,
    starts: Vec<u32>,
    room: Room<'a>,
    reservation: Reservation,
    /// A buffer for one member.
    member: String,
}

impl<'a> BodyBuilder<'a> {
    fn new(room: Room<'a>) -> Self {
        let reservation = room.budget.reservation();
        Self { text: vec![b'{'], starts: Vec::new(), room, reservation, member: String::new() }
    }

    /// Reserves memory for a text of this many bytes and this many members.
    fn reserve(&mut self, text: usize, members: usize) -> Result<(), BudgetExceeded> {
        self.grow(size(text, members))?;
        self.text.reserve(text);
        self.starts.reserve(members);
        Ok(())
    }

    /// Adds a member.
    fn push(&mut self, key: &str, body: &str) -> Result<(), BudgetExceeded> {
        self.begin()?;
        self.member.clear();
        push_member(&mut self.member, key, body);
        self.text.extend_from_slice(self.member.as_bytes());
        self.grow(size(self.text.len(), self.starts.len()))
    }

    /// Adds consecutive members of another body.
    fn copy(&mut self, other: &Body, members: Range<usize>) -> Result<(), BudgetExceeded> {
        if members.is_empty() {
            return Ok(());
        }
        self.begin()?;
        let moved_from = other.starts[members.start];
        let moved_to = self.starts.pop().expect("a member has begun");
        self.text.extend_from_slice(&other.text()[other.range(&members)]);
        offset(&self.text)?;
        self.starts.extend(other.starts[members].iter().map(|start| start - moved_from + moved_to));
        self.grow(size(self.text.len(), self.starts.len()))
    }

    /// Begins a member: separates it from the one before, and notes its offset.
    fn begin(&mut self) -> Result<(), BudgetExceeded> {
        if !self.starts.is_empty() {
            self.text.push(b',');
        }
        self.starts.push(offset(&self.text)?);
        Ok(())
    }

    /// Reserves so many bytes at least, and evicts other bodies if it has to.
    fn grow(&mut self, needed: usize) -> Result<(), BudgetExceeded> {
        if needed <= self.reservation.size() || self.reservation.resize(needed + STEP).is_ok() {
            return Ok(());
        }
        while self.reservation.resize(needed).is_err() {
            if !(self.room.evict)() {
                return Err(BudgetExceeded);
            }
        }
        Ok(())
    }

    fn finish(mut self, changed: Revision) -> Result<Body, BudgetExceeded> {
        self.text.push(b'}');
        let needed = size(self.text.len(), self.starts.len());
        self.grow(needed)?;
        self.reservation.resize(needed)?;
        Ok(Body {
            changed,
            text: Arc::new(self.reservation.hold(self.text)),
            starts: self.starts.into(),
            gzip: OnceCell::new(),
        })
    }
}

/// The offset of the end of a text. A text of 4 GiB or more is not kept, because its offsets do not fit into the index.
fn offset(text: &[u8]) -> Result<u32, BudgetExceeded> {
    u32::try_from(text.len()).map_err(|_| BudgetExceeded)
}

impl From<StoreError> for BuildError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<BudgetExceeded> for BuildError {
    fn from(_: BudgetExceeded) -> Self {
        Self::BudgetExceeded
    }
}

#[cfg(test)]
impl Body {
    pub(super) fn empty(changed: Revision) -> Self {
        Self {
            changed,
            text: Arc::new(MemoryBudget::new(2).reserve(b"{}".to_vec(), 0).expect("it has room")),
            starts: Box::default(),
            gzip: OnceCell::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    use super::*;

    /// A number, or a text with characters that have to be escaped.
    fn key(number: u16) -> Key {
        Key::from_db(&match number % 3 {
            0 | 1 => number.to_string(),
            _ => format!("\"{number}\\, {{ü\u{7}\\"),
        })
    }

    fn expected(model: &BTreeMap<Key, String>) -> String {
        let mut text = String::from("{");
        for (key, body) in model {
            text.push_str(if text.len() > 1 { "," } else { "" });
            push_member(&mut text, key.as_str(), body);
        }
        text + "}"
    }

    fn edited(body: &Body, edits: &BTreeMap<Key, Option<String>>, budget: &Arc<MemoryBudget>) -> Body {
        body.edited(edits, Revision::ZERO, Room { budget, evict: &|| false }).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn an_edited_body_equals_one_built_from_all_members(
            rounds in vec(vec((0..300_u16, option::of((0..4_usize).prop_map(|size| [2, 60, 3000, 40_000][size]))), 0..80), 1..12),
        ) {
            let budget = MemoryBudget::new(usize::MAX);
            let mut model = BTreeMap::new();
            let mut body = Body::empty(Revision::ZERO);
            for (number, round) in rounds.iter().enumerate() {
                let edits: BTreeMap<Key, Option<String>> = round
                    .iter()
                    .map(|(name, size)| (key(*name), size.map(|size| format!("\"{}\"", number.to_string().repeat(size)))))
                    .collect();
                for (key, body) in edits.clone() {
                    match body {
                        Some(body) => { model.insert(key, body); }
                        None => { model.remove(&key); }
                    }
                }
                body = edited(&body, &edits, &budget);
                prop_assert!(body.text() == expected(&model).as_bytes(), "round {number}");
                let keys: Vec<Key> = (0..body.starts.len()).map(|index| body.key(index)).collect();
                prop_assert!(keys.iter().eq(model.keys()), "round {number}");
                prop_assert_eq!(budget.limit() - budget.free(), body.size());
            }
            drop(body);
            prop_assert_eq!(budget.free(), budget.limit());
        }
    }

    #[test]
    fn a_body_that_needs_room_evicts_others_until_it_fits() {
        let budget = MemoryBudget::new(2000);
        let others = std::cell::RefCell::new(vec![budget.reserve(vec![0; 500], 0), budget.reserve(vec![0; 500], 0)]);
        let evict = || others.borrow_mut().pop().is_some();
        let one = |size| BTreeMap::from([(key(1), Some("7".repeat(size)))]);
        let build = |size| {
            Body::empty(Revision::ZERO).edited(&one(size), Revision::ZERO, Room { budget: &budget, evict: &evict })
        };
        for (size, outcome, others_left) in [(600, true, 2), (1000, true, 1), (2000, false, 0)] {
            assert_eq!(build(size).is_ok(), outcome, "{size} bytes");
            assert_eq!(others.borrow().len(), others_left, "after {size} bytes");
        }
        assert_eq!(budget.free(), 2000, "nothing is left of a body that was not built");
    }
}
