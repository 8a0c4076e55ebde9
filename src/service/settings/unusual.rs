//! The settings that are not the defaults, for the log.

use super::Settings;
use super::range::RANGES;

/// Each as on a command line, without the address and the database, which the log has anyway.
pub(super) fn unusual(settings: &Settings) -> Vec<String> {
    let defaults = Settings::default();
    let ranged = RANGES.iter().filter(|range| range.value(settings) != range.value(&defaults));
    let ranged = ranged.filter_map(|range| Some(format!("--{} {}", range.flag, range.value(settings)?)));
    let list = |flag: &str, names: &[String]| (!names.is_empty()).then(|| format!("--{flag} {}", names.join(",")));
    let spool = settings.spool.as_ref().map(|directory| format!("--spool {}", directory.display()));
    let no_copy = settings.no_copy.then(|| "--no-copy".to_owned());
    let hosts = list("host", &settings.host);
    ranged.chain(hosts).chain(list("cors-origin", &settings.cors_origin)).chain(spool).chain(no_copy).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_setting_that_is_not_the_default_is_named() {
        let mut settings = Settings::default();
        assert_eq!(unusual(&settings), Vec::<String>::new());
        settings.retention = Duration::from_secs(3600);
        settings.host = vec!["a.example".to_owned(), "b.example".to_owned()];
        settings.max_body = bytesize::ByteSize::kib(64);
        settings.retention_events = Some(7);
        settings.no_copy = true;
        let expected = [
            "--retention 1h",
            "--retention-events 7",
            "--max-body 64.0 KiB",
            "--host a.example,b.example",
            "--no-copy",
        ];
        assert_eq!(unusual(&settings), expected);
    }
}
