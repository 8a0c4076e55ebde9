//! A text that is made when the first client asks for it, and does not change while the service runs.

use std::sync::OnceLock;

use actix_web::web::Bytes;

use crate::read::gzip::compress_constant;

/// The text in both encodings.
#[derive(Debug, Default)]
pub(crate) struct ConstantBody(OnceLock<Encodings>);

#[derive(Debug)]
pub(super) struct Encodings {
    pub(super) text: Bytes,
    pub(super) gzip: Bytes,
    /// The entity tag, without quotes: a checksum of the text.
    pub(super) tag: String,
}

impl ConstantBody {
    pub(super) fn get(&self, make: impl FnOnce() -> String) -> &Encodings {
        self.0.get_or_init(|| {
            let text = Bytes::from(make());
            Encodings { gzip: compress_constant(&text), tag: format!("{:08x}", crc32fast::hash(&text)), text }
        })
    }
}
