//! The answers of a batch to commands with an idempotency key, before they are written with the rest of it.

use std::collections::HashMap;

use super::answers::{Found, NewAnswer};
use super::error::ReadError;
use super::source::Source;
use crate::domain::idempotency::RequestId;

/// Answers, in the order in which they were given.
#[derive(Default)]
pub(super) struct StagedAnswers {
    answers: Vec<NewAnswer>,
    /// The place in the list of each request.
    places: HashMap<RequestId, usize>,
}

impl StagedAnswers {
    pub(super) fn add(&mut self, answer: NewAnswer) {
        self.places.insert(answer.request, self.answers.len());
        self.answers.push(answer);
    }

    /// What a request gets that this batch, or one before it, has answered.
    pub(super) fn find(&self, source: &mut Source<'_>, request: &RequestId) -> Result<Option<Found>, ReadError> {
        match self.places.get(request) {
            Some(place) => Ok(Some(self.answers[*place].found())),
            None => source.answer(request),
        }
    }

    #[cfg(feature = "postgres")]
    pub(super) fn is_empty(&self) -> bool {
        self.answers.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &NewAnswer> {
        self.answers.iter()
    }
}
