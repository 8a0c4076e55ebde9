//! A body that does not change while the service runs, in both encodings.

use std::sync::OnceLock;

use actix_web::web::Bytes;

use super::caching::Tag;
use crate::read::gzip::compress_constant;

/// The body with its entity tag. It is compressed for the first client that takes that.
#[derive(Debug)]
pub(crate) struct ConstantBody {
    text: Bytes,
    /// Of the uncompressed body.
    tag: Tag,
    gzip: OnceLock<Bytes>,
}

impl ConstantBody {
    pub(super) fn new(text: Bytes) -> Self {
        let tag = Tag::of_text(&text);
        Self { text, tag, gzip: OnceLock::new() }
    }

    /// The tag of the uncompressed body.
    pub(super) fn tag(&self) -> &Tag {
        &self.tag
    }

    pub(super) fn text(&self) -> Bytes {
        self.text.clone()
    }

    pub(super) fn gzip(&self) -> Bytes {
        self.gzip.get_or_init(|| compress_constant(&self.text)).clone()
    }
}
