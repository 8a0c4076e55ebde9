//! What the log has about a start: the collections with their paths, what is unusual, and the address.

use std::net::SocketAddr;
use std::path::Path;

use crate::domain::collection::Registry;
use crate::http::collection_paths::CollectionPaths;
use crate::service::settings::Settings;
use crate::storage::location::mode_for_others;

/// Warns if users of this machine who are not its owner's can read a database.
pub(super) fn warn_about_readers(database: &Path) {
    let Some(mode) = mode_for_others(database) else { return };
    let path = database.display();
    log::warn!(
        "every user of this machine can read the database {path} (mode {mode:04o}); to keep it to its owner: \
         chmod o-rwx {path}*"
    );
}

/// Logs what a service has that begins to serve.
pub(super) fn report(registry: &Registry, settings: &Settings, address: SocketAddr) {
    registry.ids().for_each(|id| log::info!("{}", CollectionPaths(registry.get(id))));
    let unusual = settings.unusual();
    if !unusual.is_empty() {
        log::info!("settings that are not the defaults: {}", unusual.join(" "));
    }
    if !address.ip().is_loopback() {
        report_reach(settings, address);
    }
}

/// Logs who can reach a service that other machines can reach.
fn report_reach(settings: &Settings, address: SocketAddr) {
    if settings.tokens.is_none() {
        log::warn!("whoever reaches this address can read and write everything (--insecure)");
    }
    if address.ip().is_unspecified() {
        log::info!("on this machine, open http://localhost:{}", address.port());
        if settings.host.is_empty() {
            log::info!(
                "requests are answered under IP addresses and localhost; for another name, start with --host NAME"
            );
        }
    }
}
