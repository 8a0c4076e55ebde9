//! The settings that are not the defaults, for the log.

use std::path::PathBuf;

use super::Settings;
use super::range::RANGES;

/// Each as on a command line, without the address and the database, which the log has anyway.
pub(super) fn unusual(settings: &Settings) -> Vec<String> {
    let defaults = Settings::default();
    let ranged = RANGES.iter().filter(|range| range.value(settings) != range.value(&defaults));
    let ranged = ranged.filter_map(|range| Some(format!("--{} {}", range.flag, range.value(settings)?)));
    let list = |flag: &str, names: &[String]| (!names.is_empty()).then(|| format!("--{flag} {}", names.join(",")));
    let log_format =
        (settings.log_format != defaults.log_format).then(|| format!("--log-format {}", settings.log_format));
    let spool = settings.spool.as_ref().map(|directory| format!("--spool {}", directory.display()));
    let no_copy = settings.no_copy.then(|| "--no-copy".to_owned());
    let hosts = list("host", &settings.host);
    let file = |flag: &str, file: &Option<PathBuf>| file.as_ref().map(|file| format!("--{flag} {}", file.display()));
    let operate_on = settings.operate_on.as_ref().map(|address| format!("--operate-on {address}"));
    let page = (!settings.page).then(|| "--page off".to_owned());
    let proxies = list("trusted-proxy", &settings.trusted_proxy);
    let tls = file("tls-cert", &settings.tls_cert).into_iter().chain(file("tls-key", &settings.tls_key));
    let tokens = settings.tokens.as_ref().map(|file| format!("--tokens {}", file.display()));
    let insecure = settings.insecure.then(|| "--insecure".to_owned());
    let listed = hosts.into_iter().chain(list("cors-origin", &settings.cors_origin));
    ranged
        .chain(tokens)
        .chain(insecure)
        .chain(listed)
        .chain(tls)
        .chain(operate_on)
        .chain(page)
        .chain(proxies)
        .chain(spool)
        .chain(no_copy)
        .chain(log_format)
        .chain(publishing(settings, &defaults))
        .collect()
}

/// The servers are without users and passwords.
fn publishing<'a>(settings: &'a Settings, defaults: &Settings) -> impl Iterator<Item = String> + 'a {
    let servers: Vec<String> = settings.publish.iter().map(ToString::to_string).collect();
    let servers = (!servers.is_empty()).then(|| format!("--publish {}", servers.join(",")));
    let name = |flag: &str, name: &str, default: &str| (name != default).then(|| format!("--{flag} {name}"));
    let file = |flag: &str, file: &Option<PathBuf>| file.as_ref().map(|file| format!("--{flag} {}", file.display()));
    servers
        .into_iter()
        .chain(name("publish-stream", &settings.publish_stream, &defaults.publish_stream))
        .chain(name("publish-prefix", &settings.publish_prefix, &defaults.publish_prefix))
        .chain(file("publish-credentials", &settings.publish_credentials))
        .chain(file("publish-ca", &settings.publish_ca))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::service::log_format::LogFormat;

    #[test]
    fn every_setting_that_is_not_the_default_is_named() {
        let mut settings = Settings::default();
        assert_eq!(unusual(&settings), Vec::<String>::new());
        settings.retention = Duration::from_secs(3600);
        settings.host = vec!["a.example".to_owned(), "b.example".to_owned()];
        settings.max_body = bytesize::ByteSize::kib(64);
        settings.retention_events = Some(7);
        settings.no_copy = true;
        settings.log_format = LogFormat::Json;
        settings.publish = vec!["nats://user:secret@a.example".into(), "tls://b.example".into()];
        settings.publish_stream = "shop".to_owned();
        settings.publish_ca = Some("ca.pem".into());
        let expected = [
            "--retention 1h",
            "--retention-events 7",
            "--max-body 64.0 KiB",
            "--host a.example,b.example",
            "--no-copy",
            "--log-format json",
            "--publish nats://a.example:4222,tls://b.example:4222",
            "--publish-stream shop",
            "--publish-ca ca.pem",
        ];
        assert_eq!(unusual(&settings), expected);
    }
}
