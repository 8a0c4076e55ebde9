//! What an aggregate is, and the numbers by which its history is counted. Knows no SQL, no actor and no HTTP.

pub(crate) mod clock;
pub(crate) mod collection;
pub(crate) mod cursor;
pub(crate) mod error_chain;
pub(crate) mod feed;
pub(crate) mod json;
pub(crate) mod key;
pub(crate) mod merge_patch;
pub(crate) mod precondition;
