//! Where the log goes, and what of it.

use std::panic::PanicHookInfo;

use log::LevelFilter;

use super::log_format::{LogFormat, write_fields, write_json};

/// What is logged if `RUST_LOG` does not set a level for everything.
const DEFAULT: &str = "warn,duality=info";

/// Sends the log to standard error. `RUST_LOG` adds to the default, unless it sets a level for everything.
///
/// A program around this one may have a log already, which is kept.
pub(super) fn start(format: LogFormat) {
    let mut log = env_logger::Builder::new();
    let wanted = std::env::var("RUST_LOG").unwrap_or_default();
    if !sets_level(&wanted) {
        log.parse_filters(DEFAULT);
    }
    // It reports each attempt to connect as an error; what it means is in our own log.
    log.filter_module("async_nats", LevelFilter::Off);
    log.parse_filters(&wanted);
    // It reports a stream that we cut on purpose as an error; what really fails is in our own log.
    log.filter_module("actix_http::h1::dispatcher", LevelFilter::Off);
    match format {
        LogFormat::Plain => log.format_key_values(write_fields),
        LogFormat::Json => log.format(write_json),
    };
    if log.try_init().is_ok() && format == LogFormat::Json {
        std::panic::set_hook(Box::new(log_panic));
    }
    for word in unknown_words(&wanted) {
        log::warn!(
            "RUST_LOG: {word:?} is not a level, and is used as the name of a crate; \
             expected error, warn, info, debug, trace or off, or for example {DEFAULT}"
        );
    }
}

/// Logs a panic, in the place of the lines that Rust prints.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    log::error!("thread {}: {panic}", thread.name().unwrap_or("without a name"));
}

/// Whether a filter has a level that is for everything.
fn sets_level(filter: &str) -> bool {
    directives(filter).any(|directive| directive.parse::<LevelFilter>().is_ok())
}

/// The directives that are neither a level nor a crate that is in this program, as far as that is known.
fn unknown_words(filter: &str) -> impl Iterator<Item = &str> {
    directives(filter).filter(|directive| {
        let is_known =
            directive.contains(['=', ':']) || directive.starts_with("duality") || directive.starts_with("actix");
        !is_known && directive.parse::<LevelFilter>().is_err()
    })
}

/// The parts of a filter, without the expression after a slash.
fn directives(filter: &str) -> impl Iterator<Item = &str> {
    let directives = filter.split('/').next().unwrap_or_default();
    directives.split(',').map(str::trim).filter(|directive| !directive.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_level_for_everything_replaces_the_default() {
        for (filter, replaces, unknown) in [
            ("", false, 0),
            ("nonsense", false, 1),
            ("debug", true, 0),
            ("OFF", true, 0),
            ("warn,duality=debug", true, 0),
            ("duality=debug", false, 0),
            ("duality::write,actix_server", false, 0),
            ("inof, debug/needle", true, 1),
        ] {
            assert_eq!((sets_level(filter), unknown_words(filter).count()), (replaces, unknown), "{filter}");
        }
    }
}
