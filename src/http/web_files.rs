//! The files of `web/`, which are part of the program: the page, and what scripts import.

use std::sync::LazyLock;

use actix_web::HttpResponse;
use actix_web::http::header::{
    ACCESS_CONTROL_ALLOW_ORIGIN, CONTENT_SECURITY_POLICY, CONTENT_TYPE, CROSS_ORIGIN_RESOURCE_POLICY, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use actix_web::web::Bytes;

use super::caching::Caching;
use super::constant_body::ConstantBody;
use super::constant_response::respond;
use super::problem::Problem;
use super::request::RequestContext;

/// The media type of a page, as clients ask for it.
pub(super) const HTML: &str = "text/html";

/// Everything comes from the service itself, and no other page can frame it.
const POLICY: &str =
    "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; object-src 'none'; form-action 'self'";

/// All files, one a line: whoever adds a file to `web/` adds its line.
static FILES: LazyLock<Vec<WebFile>> = LazyLock::new(|| {
    vec![
        file(Kind::Page, INDEX, include_bytes!("../../web/index.html")),
        file(Kind::Page, "/docs", include_bytes!("../../web/docs/index.html")),
        file(Kind::Style, "/page/docs.css", include_bytes!("../../web/docs/docs.css")),
        file(Kind::Script, "/page/docs.js", include_bytes!("../../web/docs/docs.js")),
        file(Kind::Script, "/page/docs_call_view.js", include_bytes!("../../web/docs/docs_call_view.js")),
        file(Kind::Script, "/page/docs_description.js", include_bytes!("../../web/docs/docs_description.js")),
        file(Kind::Script, "/page/docs_prose.js", include_bytes!("../../web/docs/docs_prose.js")),
        file(Kind::Script, "/page/docs_schema_view.js", include_bytes!("../../web/docs/docs_schema_view.js")),
        file(Kind::Module, "/follow.js", include_bytes!("../../web/follow.js")),
        file(Kind::Module, "/follow_tabs.js", include_bytes!("../../web/follow_tabs.js")),
        file(Kind::Types, "/follow.d.ts", include_bytes!("../../web/follow.d.ts")),
        file(Kind::Script, "/page/aggregate_view.js", include_bytes!("../../web/aggregate_view.js")),
        file(Kind::Script, "/page/api.js", include_bytes!("../../web/api.js")),
        file(Kind::Script, "/page/changes.js", include_bytes!("../../web/changes.js")),
        file(Kind::Script, "/page/copy.js", include_bytes!("../../web/copy.js")),
        file(Kind::Script, "/page/dom.js", include_bytes!("../../web/dom.js")),
        file(Kind::Script, "/page/duality_view.js", include_bytes!("../../web/duality_view.js")),
        file(Kind::Script, "/page/feed_view.js", include_bytes!("../../web/feed_view.js")),
        file(Kind::Script, "/page/form.js", include_bytes!("../../web/form.js")),
        file(Kind::Script, "/page/frame.js", include_bytes!("../../web/frame.js")),
        file(Kind::Script, "/page/header.js", include_bytes!("../../web/header.js")),
        file(Kind::Script, "/page/history.js", include_bytes!("../../web/history.js")),
        file(Kind::Image, "/page/icon.svg", include_bytes!("../../web/icon.svg")),
        file(Kind::Script, "/page/journal_view.js", include_bytes!("../../web/journal_view.js")),
        file(Kind::Script, "/page/json_text.js", include_bytes!("../../web/json_text.js")),
        file(Kind::Script, "/page/metrics.js", include_bytes!("../../web/metrics.js")),
        file(Kind::Script, "/page/navigation.js", include_bytes!("../../web/navigation.js")),
        file(Kind::Script, "/page/ordered_keys.js", include_bytes!("../../web/ordered_keys.js")),
        file(Kind::Script, "/page/orders.js", include_bytes!("../../web/orders.js")),
        file(Kind::Script, "/page/page.js", include_bytes!("../../web/page.js")),
        file(Kind::Script, "/page/patch.js", include_bytes!("../../web/patch.js")),
        file(Kind::Script, "/page/plot.js", include_bytes!("../../web/plot.js")),
        file(Kind::Script, "/page/projections_view.js", include_bytes!("../../web/projections_view.js")),
        file(Kind::Script, "/page/report_view.js", include_bytes!("../../web/report_view.js")),
        file(Kind::Script, "/page/router.js", include_bytes!("../../web/router.js")),
        file(Kind::Script, "/page/schema.js", include_bytes!("../../web/schema.js")),
        file(Kind::Script, "/page/service_view.js", include_bytes!("../../web/service_view.js")),
        file(Kind::Script, "/page/snippets.js", include_bytes!("../../web/snippets.js")),
        file(Kind::Style, "/page/style.css", include_bytes!("../../web/style.css")),
        file(Kind::Script, "/page/table.js", include_bytes!("../../web/table.js")),
        file(Kind::Script, "/page/timeline.js", include_bytes!("../../web/timeline.js")),
        file(Kind::Script, "/page/token.js", include_bytes!("../../web/token.js")),
        file(Kind::Script, "/page/words.js", include_bytes!("../../web/words.js")),
    ]
});

/// The path of the page.
const INDEX: &str = "/";

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Page,
    /// A script of the page.
    Script,
    /// A script that pages of any origin may import.
    Module,
    /// The types of a module.
    Types,
    Style,
    Image,
}

impl Kind {
    const fn media_type(self) -> &'static str {
        match self {
            Self::Page => "text/html; charset=utf-8",
            Self::Script | Self::Module => "text/javascript; charset=utf-8",
            Self::Types => "application/typescript; charset=utf-8",
            Self::Style => "text/css; charset=utf-8",
            Self::Image => "image/svg+xml",
        }
    }
}

/// A file that is part of the program.
struct WebFile {
    path: &'static str,
    kind: Kind,
    body: ConstantBody,
}

fn file(kind: Kind, path: &'static str, bytes: &'static [u8]) -> WebFile {
    WebFile { path, kind, body: ConstantBody::new(Bytes::from_static(bytes)) }
}

/// `GET /follow.js`, `GET /page/style.css`
pub(super) async fn web_file(context: RequestContext) -> Result<HttpResponse, Problem> {
    send(&context)
}

/// Responds with the file at the path of the request, or with a 304. Browsers ask each time whether their copy is current, so
/// that a page never runs scripts of two versions of the program.
pub(super) fn send(context: &RequestContext) -> Result<HttpResponse, Problem> {
    let path = context.request.path();
    let file = FILES.iter().find(|file| file.path == path).ok_or_else(|| Problem::no_such_path(path))?;
    let mut response = HttpResponse::Ok();
    response
        .insert_header((CONTENT_TYPE, file.kind.media_type()))
        .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((REFERRER_POLICY, "no-referrer"));
    match file.kind {
        Kind::Page => response.insert_header((CONTENT_SECURITY_POLICY, POLICY)),
        Kind::Module => response
            .insert_header((ACCESS_CONTROL_ALLOW_ORIGIN, "*"))
            .insert_header((CROSS_ORIGIN_RESOURCE_POLICY, "cross-origin")),
        Kind::Script | Kind::Types | Kind::Style | Kind::Image => &mut response,
    };
    // The other resource at its path is the index.
    let caching = if path == INDEX { Caching::STATE } else { Caching::FILE };
    respond(context, response, caching, &file.body)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    #[test]
    fn every_file_of_the_folder_is_served() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("web");
        let files = |folder: &Path| {
            let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
            entries.filter(|path| path.is_file()).collect::<Vec<_>>()
        };
        let found = [files(&folder), files(&folder.join("docs"))].concat();
        let found: BTreeSet<_> = found.iter().map(|path| std::fs::read(path).unwrap()).collect();
        let served: BTreeSet<_> = FILES.iter().map(|file| file.body.text().to_vec()).collect();
        assert!(found == served, "{} files in web/, {} served", found.len(), served.len());
    }

    #[test]
    fn no_two_files_have_the_same_path_or_tag() {
        let files = || FILES.iter();
        let paths: BTreeSet<_> = files().map(|file| file.path).collect();
        let tags: BTreeSet<_> = files().map(|file| file.body.tag().as_str()).collect();
        assert_eq!((paths.len(), tags.len()), (files().count(), files().count()));
    }
}
