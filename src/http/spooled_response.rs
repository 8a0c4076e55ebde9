//! Bodies that are made while they are sent, and long answers that wait for a slow client outside of memory.

use std::sync::Arc;

use actix_web::{HttpResponse, HttpResponseBuilder, web};

use super::problem::Problem;
use super::request::RequestContext;
use crate::memory::ledger::Usage;
use crate::read::body_stream::BodyStream;
use crate::read::collection_cache::{CollectionRevision, SizeObserver};
use crate::read::collection_writer::StreamTarget;
use crate::read::pool::ReadCollections;
use crate::read::shared_spools::{Content, Opened};
use crate::read::spool::Cut;
use crate::read::spooled_body::SpooledBody;

/// A body, and the revisions that it shows.
pub(super) struct SpooledResponse {
    pub(super) shown: CollectionRevision,
    pub(super) body: SpooledBody,
}

/// Reading so many single aggregates takes no longer than a page.
const FEW_KEYS: usize = 10;

/// Short answers are in memory as often as there are connections, like what the framework buffers for each; in bytes.
const SHORT: usize = 64 * 1024;

/// The body with this content, made by one thread for all who ask for it at the same time.
pub(super) async fn spooled(
    context: &RequestContext,
    content: Content,
    current: CollectionRevision,
    mut observer: Option<SizeObserver>,
) -> Result<SpooledResponse, Problem> {
    let shared = &context.shared;
    let is_short = content.keys.as_ref().is_some_and(|keys| keys.len() <= FEW_KEYS);
    let pool = if is_short { &shared.readers } else { &shared.scanners };
    loop {
        let mut body = match shared.spools.open(&content, current.changed, context.address()) {
            Opened::Shared(body) => body,
            Opened::New(spool, body) => {
                let target = StreamTarget { form: content.form, spool, observer: observer.take() };
                let (content, spools) = (content.clone(), shared.spools.clone());
                pool.try_post(ReadCollections { content, target, spools })?;
                body
            }
            Opened::NoRoom => return Err(Cut::NoRoom.into()),
        };
        let Some(shown) = body.begun().await? else { continue };
        // Its read may have begun just before the last change was written.
        if shown.document >= current.changed {
            body.fetch_first().await?;
            // Nothing of it has changed since.
            let shown = CollectionRevision { document: shown.document.max(current.document), ..shown };
            return Ok(SpooledResponse { shown, body });
        }
    }
}

/// A response with a text that was made as a whole. A long one counts against the memory for answers until it is sent, or
/// waits in a temporary file if there is none.
pub(super) async fn whole(
    context: &RequestContext,
    mut response: HttpResponseBuilder,
    text: String,
) -> Result<HttpResponse, Problem> {
    if text.len() <= SHORT {
        return Ok(response.body(text));
    }
    let mut reservation = context.shared.memory.of(Usage::Answers).reservation();
    if reservation.resize(text.len()).is_ok() {
        let tracked = Arc::new(reservation.hold(text.into_bytes()));
        return Ok(response.body(BodyStream::new(tracked.share())));
    }
    // Apart, because nearly all answers need no room for this.
    Box::pin(spooled_text(context, response, text)).await
}

async fn spooled_text(
    context: &RequestContext,
    mut response: HttpResponseBuilder,
    text: String,
) -> Result<HttpResponse, Problem> {
    let (mut spool, mut body) = context.shared.spools.private(context.address());
    let written = web::block(move || {
        // If it fails, the body knows why.
        if text.as_bytes().chunks(SHORT).try_for_each(|chunk| spool.push(chunk.to_vec())).is_ok() {
            spool.finish();
        }
    });
    written.await.map_err(|_| Problem::internal())?;
    body.begun().await?;
    body.fetch_first().await?;
    body.name_length();
    Ok(response.body(body))
}
