//! A whole collection as it was at one revision, in pieces of which most are shared with the versions before and after.

use std::sync::{Arc, Mutex};

use actix_web::web::Bytes;

use super::gzip::Zipping;
use super::piece::{Cutter, Edit, Piece, Place};
use crate::domain::key::CollectionId;
use crate::domain::revision::Revision;
use crate::events::memory_budget::{BudgetExceeded, MemoryBudget};
use crate::storage::error::StoreError;
use crate::storage::page::PageLimit;
use crate::storage::reader::View;

/// `{"1":{…},"2":{…}}`, byte for byte what going through the table would give.
pub(crate) struct Body {
    /// The revision of the collection's last change.
    changed: Revision,
    pieces: Vec<Arc<Piece>>,
    /// In bytes.
    size: usize,
    /// The number of aggregates.
    aggregates: usize,
    pub(super) zipping: Mutex<Zipping>,
}

/// Why there is no body.
#[derive(Debug)]
pub(super) enum Unmade {
    BudgetExceeded,
    Store(StoreError),
}

/// What is read of changed aggregates to bring a body up to date, in bytes; where more has changed, it is made anew.
const EDITS: usize = 4 * 1024 * 1024;

/// The mean length of pieces below which they are made anew, in bytes: deletions have left too little of them.
const SPARSE: usize = 4 * 1024;

impl Body {
    fn new(changed: Revision, pieces: Vec<Arc<Piece>>) -> Self {
        let (text, aggregates) =
            pieces.iter().fold((0, 0), |(text, members), piece| (text + piece.text().len(), members + piece.len()));
        Self { changed, size: text.max(1) + 1, aggregates, pieces, zipping: Mutex::default() }
    }

    /// One of nothing.
    #[cfg(test)]
    pub(super) fn empty(changed: Revision) -> Self {
        Self::new(changed, Vec::new())
    }

    /// Reads all of a collection.
    pub(super) fn anew(
        view: &mut View<'_>,
        collection: CollectionId,
        budget: &Arc<MemoryBudget>,
    ) -> Result<Self, Unmade> {
        let changed = view.last_change(collection)?;
        let mut cutter = Cutter::anew(budget);
        view.scan(collection, |key, body| Ok::<_, Unmade>(cutter.push(key, body)?))?;
        Ok(Self::new(changed, cutter.finish()?))
    }

    /// What the body has become, from those aggregates that changed after a revision at which it was exact; `None` where
    /// it has to be made anew. Deletions up to the revision `forgotten` may have left no row.
    pub(super) fn after(
        &self,
        (exact_at, forgotten): (Revision, Revision),
        view: &mut View<'_>,
        collection: CollectionId,
        budget: &Arc<MemoryBudget>,
    ) -> Result<Option<Self>, Unmade> {
        let changed = view.last_change(collection)?;
        // Of a deletion that is forgotten no row tells.
        let may_have_missed = forgotten > exact_at;
        let is_sparse = self.pieces.len() > 8 && self.size / self.pieces.len() < SPARSE;
        if may_have_missed || is_sparse {
            return Ok(None);
        }
        let room = PageLimit { items: self.aggregates / 2 + 100, bytes: EDITS };
        let Some(edits) = view.changed_of(collection, exact_at, room)? else { return Ok(None) };
        let edits: Vec<Edit> = edits.into_iter().collect();
        Ok(Some(Self::new(changed, self.edited(&edits, budget)?)))
    }

    /// The pieces after some edits, which are in the order of their keys.
    fn edited(&self, edits: &[Edit], budget: &Arc<MemoryBudget>) -> Result<Vec<Arc<Piece>>, BudgetExceeded> {
        let place = |index: usize| if index == 0 { Place::First } else { Place::Later };
        let of = |edit: &Edit| self.pieces.partition_point(|piece| *piece.first() <= edit.0).saturating_sub(1);
        let (mut pieces, mut next) = (Vec::with_capacity(self.pieces.len() + 1), 0);
        for edits in edits.chunk_by(|one, other| of(one) == of(other)) {
            let index = of(&edits[0]);
            let Some(piece) = self.pieces.get(index) else {
                let mut cutter = Cutter::anew(budget);
                for (key, body) in edits {
                    if let Some(body) = body {
                        cutter.push(key.as_str(), body)?;
                    }
                }
                return cutter.finish();
            };
            pieces.extend_from_slice(&self.pieces[next..index]);
            pieces.extend(piece.edited(edits, place(index), budget)?);
            next = index + 1;
        }
        pieces.extend_from_slice(&self.pieces[next..]);
        if let Some(first) = pieces.first_mut().filter(|first| !first.is_opening()) {
            *first = first.opening(budget)?;
        }
        Ok(pieces)
    }

    /// The revision of the collection's last change.
    pub(crate) fn changed(&self) -> Revision {
        self.changed
    }

    /// In bytes.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// What it takes beside its text, in bytes.
    pub(super) fn beside(&self) -> usize {
        self.pieces.iter().map(|piece| piece.beside()).sum()
    }

    pub(super) fn pieces(&self) -> &[Arc<Piece>] {
        &self.pieces
    }

    /// The text in chunks: the pieces, then what closes them.
    pub(super) fn chunk(&self, index: usize) -> Option<Bytes> {
        match self.pieces.get(index) {
            Some(piece) => Some(piece.text().clone()),
            None if index > self.pieces.len() => None,
            None => Some(Bytes::from_static(self.end())),
        }
    }

    /// What closes the pieces; all, where there are none.
    pub(super) fn end(&self) -> &'static [u8] {
        if self.pieces.is_empty() { b"{}" } else { b"}" }
    }
}

impl From<StoreError> for Unmade {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<BudgetExceeded> for Unmade {
    fn from(_: BudgetExceeded) -> Self {
        Self::BudgetExceeded
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    use super::*;
    use crate::domain::feed::push_member;
    use crate::domain::key::Key;

    /// A key of some kind: a number, or a text that has to be escaped.
    fn key(number: u16) -> Key {
        Key::from_db(&match number % 3 {
            0 | 1 => number.to_string(),
            _ => format!("\"{number}\\, {{ü\u{7}\\"),
        })
    }

    fn text(body: &Body) -> String {
        let chunks: Vec<Bytes> = (0..).map_while(|index| body.chunk(index)).collect();
        String::from_utf8(chunks.concat()).unwrap()
    }

    fn expected(model: &BTreeMap<Key, String>) -> String {
        let mut text = String::from("{");
        for (key, body) in model {
            text.push_str(if text.len() > 1 { "," } else { "" });
            push_member(&mut text, key.as_str(), body);
        }
        text + "}"
    }

    fn edited(body: &Body, edits: &[Edit], budget: &Arc<MemoryBudget>) -> Body {
        Body::new(Revision::ZERO, body.edited(edits, budget).unwrap())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn edits_end_in_the_bytes_that_all_of_it_would_give(
            rounds in vec(vec((0..300_u16, option::of((0..4_usize).prop_map(|size| [2, 60, 3000, 40_000][size]))), 0..80), 1..12),
        ) {
            let budget = MemoryBudget::new(usize::MAX);
            let (mut model, mut body) = (BTreeMap::new(), Body::new(Revision::ZERO, Vec::new()));
            for (number, round) in rounds.iter().enumerate() {
                let edits: BTreeMap<Key, Option<String>> = round
                    .iter()
                    .map(|(name, size)| (key(*name), size.map(|size| format!("\"{}\"", number.to_string().repeat(size)))))
                    .collect();
                for (key, body) in edits.clone() {
                    match body {
                        Some(body) => drop(model.insert(key, body)),
                        None => drop(model.remove(&key)),
                    }
                }
                body = edited(&body, &edits.into_iter().collect::<Vec<_>>(), &budget);
                prop_assert!(text(&body) == expected(&model), "round {number}");
                prop_assert_eq!((body.size(), body.aggregates), (expected(&model).len(), model.len()));
                for (index, piece) in body.pieces().iter().enumerate() {
                    prop_assert_eq!(piece.is_opening(), index == 0);
                    prop_assert!(piece.len() == 1 || piece.text().len() < 100_000, "{} in a piece", piece.len());
                }
            }
            drop(body);
            prop_assert_eq!(budget.free(), budget.limit());
        }
    }

    #[test]
    fn a_change_makes_one_piece_anew_and_what_is_too_long_two() {
        let budget = MemoryBudget::new(usize::MAX);
        let row = |number: i64, size| (Key::of_number(number), Some("7".repeat(size)));
        let all: Vec<Edit> = (1..=1000).map(|number| row(number, 100)).collect();
        let before = edited(&Body::new(Revision::ZERO, Vec::new()), &all, &budget);
        let shared = |after: &Body| {
            let is_old = |piece: &&Arc<Piece>| before.pieces().iter().any(|old| Arc::ptr_eq(old, piece));
            (after.pieces().iter().filter(is_old).count(), after.pieces().len())
        };
        assert_eq!(shared(&before), (5, 5), "of 24 KiB");
        assert_eq!(shared(&edited(&before, &[row(500, 200)], &budget)), (4, 5));
        assert_eq!(shared(&edited(&before, &[row(500, 20_000)], &budget)), (4, 6));
        assert_eq!(shared(&edited(&before, &[row(1001, 10)], &budget)), (4, 5));
        let gone: Vec<Edit> = (1..=300).map(|number| (Key::of_number(number), None)).collect();
        assert_eq!(shared(&edited(&before, &gone, &budget)), (3, 4));
    }
}
