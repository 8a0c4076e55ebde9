//! The last message about each collection, by which consumers of a collection see that one is missing.

use std::collections::HashMap;

use super::message::Message;
use crate::domain::cursor::Cursor;

/// The last revision, or position, that was published of each collection.
#[derive(Debug, Clone, Default)]
pub(super) struct Heads(HashMap<String, Head>);

/// What was published last of a collection.
#[derive(Debug, Clone, Copy)]
struct Head {
    number: i64,
    previous: Option<i64>,
}

impl Heads {
    /// What a stream has, of which these are the last messages about the collections.
    pub(super) fn of<'a>(messages: impl Iterator<Item = &'a Message>) -> Self {
        let head = |message: &Message| match message.id.parse() {
            Ok(Cursor::After { after, .. } | Cursor::Partial { after, .. }) => {
                let head = Head { number: after.number(), previous: message.previous };
                Some((message.collection.clone(), head))
            }
            _ => None,
        };
        Self(messages.filter_map(head).collect())
    }

    /// The number before this one, which is published now. The messages of one number have the same one before them.
    pub(super) fn advance(&mut self, collection: &str, number: i64) -> Option<i64> {
        match self.0.get_mut(collection) {
            Some(head) if head.number == number => head.previous,
            Some(head) => {
                *head = Head { number, previous: Some(head.number) };
                head.previous
            }
            None => {
                self.0.insert(collection.to_owned(), Head { number, previous: None });
                None
            }
        }
    }

    /// Says in messages of one number what is before them.
    pub(super) fn link(&mut self, messages: &mut [Message], number: i64) {
        for message in messages {
            message.previous = self.advance(&message.collection, number);
        }
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_messages_of_one_revision_have_the_same_one_before_them() {
        let mut heads = Heads::default();
        let advanced = [3, 3, 5, 5, 9].map(|number| heads.advance("persons", number));
        assert_eq!(advanced, [None, None, Some(3), Some(3), Some(5)]);
        assert_eq!(heads.advance("locations", 5), None);
    }
}
