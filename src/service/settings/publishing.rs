//! The settings for publishing into a message broker: whether they fit together, and what they say.

use std::path::Path;

use super::{InvalidSetting, Settings};
use crate::publish::address::{Address, Login};
#[cfg(feature = "nats")]
use crate::publish::carrier::Output;
#[cfg(feature = "nats")]
use crate::publish::nats::{Broker, NatsCarrier, Owner};
use crate::publish::outputs::Outputs;
#[cfg(feature = "nats")]
use crate::storage::database::Database;

/// The most characters of a stream's name and of a prefix.
const MAX_NAME: usize = 200;

/// Checks the settings without connecting to anything.
///
/// # Errors
/// Names the setting, and what was expected.
pub(super) fn check(settings: &Settings) -> Result<(), InvalidSetting> {
    if !is_token(&settings.publish_stream) {
        let expected = format!("at most {MAX_NAME} letters, digits, - and _");
        return Err(invalid("publish-stream", expected, &settings.publish_stream));
    }
    let prefix = &settings.publish_prefix;
    if prefix.len() > MAX_NAME || !prefix.split('.').all(is_token) {
        let expected = format!("at most {MAX_NAME} letters, digits, - and _, with single dots in between");
        return Err(invalid("publish-prefix", expected, prefix));
    }
    check_pem("publish-credentials", settings.publish_credentials.as_deref(), "NATS USER JWT")?;
    check_pem("publish-ca", settings.publish_ca.as_deref(), "CERTIFICATE")?;
    check_servers(settings)
}

fn check_servers(settings: &Settings) -> Result<(), InvalidSetting> {
    let Some(first) = settings.publish.first() else { return Ok(()) };
    let refuse = |expected: &str| Err(invalid("publish", expected.to_owned(), &first.to_string()));
    for url in &settings.publish {
        if let Err(why) = url.address() {
            let expected = format!("URLs such as nats://host:4222 or tls://user:password@host:4222 ({why})");
            return Err(invalid("publish", expected, &url.to_string()));
        }
    }
    if cfg!(not(feature = "nats")) {
        return refuse(
            "a program with NATS, and this one was built without it (cargo build --release --features nats)",
        );
    }
    let mut logins = addresses(settings).filter_map(|address| address.login);
    match (logins.next(), &settings.publish_credentials) {
        (Some(_), Some(_)) => refuse("no user and no password beside --publish-credentials"),
        (Some(login), None) if !logins.all(|other: Login| other == login) => {
            refuse("the same user and password for all servers")
        }
        _ => Ok(()),
    }
}

fn addresses(settings: &Settings) -> impl Iterator<Item = Address> {
    settings.publish.iter().filter_map(|url| url.address().ok())
}

/// Checks that a file can be read and has a part with this title.
fn check_pem(flag: &'static str, file: Option<&Path>, title: &str) -> Result<(), InvalidSetting> {
    let Some(file) = file else { return Ok(()) };
    let why = match std::fs::read_to_string(file) {
        Ok(text) if text.contains(&format!("-----BEGIN {title}-----")) => return Ok(()),
        Ok(_) => "there is no such line".to_owned(),
        Err(error) => error.to_string(),
    };
    let expected = format!("a file with the line -----BEGIN {title}----- ({why})");
    Err(invalid(flag, expected, &file.to_string_lossy()))
}

/// Whether a text is one part of a subject, and part of the name of a file, on every system.
fn is_token(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(is_plain)
}

fn invalid(flag: &'static str, expected: String, value: &str) -> InvalidSetting {
    InvalidSetting { flag, expected, value: value.to_owned() }
}

impl Settings {
    /// What a service publishes, with what `--publish` adds to it.
    #[cfg(feature = "nats")]
    pub(in crate::service) fn with_broker(&self, mut outputs: Outputs) -> Outputs {
        let Some(broker) = self.broker() else { return outputs };
        for output in [Output::Changes, Output::Journal] {
            let broker = broker.clone();
            outputs.add(output, move |database: &Database| {
                let name = format!("the database {}", database.name().display());
                let record = database.history().epoch().to_string();
                NatsCarrier::new(broker.clone(), output, &Owner { name, record })
            });
        }
        outputs
    }

    /// What a service publishes: [`check`] has refused `--publish`.
    #[cfg(not(feature = "nats"))]
    #[expect(clippy::unused_self, reason = "a program with NATS uses it")]
    pub(in crate::service) fn with_broker(&self, outputs: Outputs) -> Outputs {
        outputs
    }

    /// Where and how to publish; `None` without `--publish`.
    #[cfg(feature = "nats")]
    fn broker(&self) -> Option<Broker> {
        (!self.publish.is_empty()).then(|| Broker {
            addresses: addresses(self).collect(),
            credentials: self.publish_credentials.clone(),
            authorities: self.publish_ca.clone(),
            stream: self.publish_stream.clone(),
            prefix: self.publish_prefix.clone(),
            size: self.publish_size.as_u64(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publish::address::BrokerUrl;

    fn rejection(change: impl FnOnce(&mut Settings)) -> String {
        let mut settings = Settings::default();
        change(&mut settings);
        check(&settings).expect_err("it is invalid").to_string()
    }

    fn servers(urls: &[&str]) -> Vec<BrokerUrl> {
        urls.iter().copied().map(BrokerUrl::from).collect()
    }

    #[test]
    fn an_invalid_setting_is_named_with_what_was_expected_and_without_a_password() {
        for (urls, expected) in [
            (&["host:4222"][..], "nats://host:4222 or tls://"),
            (&["nats://u:s3cret@a", "http://u:s3cret@b"], "neither nats nor tls"),
            (&["nats://u:s3cret@a", "nats://v:s3cret@b"], "the same user and password"),
            // A comma in a password.
            (&["nats://u:s3cret", "t@b"], "the port is no number"),
        ] {
            let rejection = rejection(|settings| settings.publish = servers(urls));
            assert!(rejection.contains(expected) && rejection.contains("--publish (DUALITY_PUBLISH)"), "{rejection}");
            assert!(!rejection.contains("s3cret"), "{rejection}");
        }
        for name in ["", "a.b", "a b", "a*", "a/b", "ä", &"a".repeat(201)] {
            assert!(rejection(|settings| settings.publish_stream = name.to_owned()).contains("--publish-stream"));
        }
        for prefix in ["", ".", "a.", "a..b", ">", "a b", &"a".repeat(201)] {
            assert!(rejection(|settings| settings.publish_prefix = prefix.to_owned()).contains("--publish-prefix"));
        }
    }

    #[test]
    fn a_file_has_to_have_what_it_is_for() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        let missing = rejection(|settings| settings.publish_ca = Some(file.clone()));
        assert!(missing.contains("--publish-ca") && missing.contains("No such file"), "{missing}");
        std::fs::write(&file, "-----BEGIN CERTIFICATE-----").unwrap();
        let wrong = rejection(|settings| settings.publish_credentials = Some(file.clone()));
        assert!(wrong.contains("-----BEGIN NATS USER JWT----- (there is no such line)"), "{wrong}");

        let publish = servers(&["tls://u:s3cret@a", "tls://b"]);
        let mut settings = Settings { publish, publish_ca: Some(file.clone()), ..Settings::default() };
        assert_eq!(check(&settings), Ok(()));
        std::fs::write(&file, "-----BEGIN NATS USER JWT-----").unwrap();
        settings.publish_credentials = settings.publish_ca.take();
        let both = check(&settings).unwrap_err().to_string();
        assert!(both.contains("beside --publish-credentials") && !both.contains("s3cret"), "{both}");
    }

    #[cfg(feature = "nats")]
    #[test]
    fn a_broker_is_what_the_settings_say() {
        let mut settings = Settings::default();
        assert!(settings.broker().is_none());
        settings.publish = servers(&["nats://a", "nats://u:p@b"]);
        let broker = settings.broker().unwrap();
        assert_eq!((broker.addresses.len(), broker.stream.as_str(), broker.size), (2, "duality", 1 << 30));
        assert!(!format!("{settings:?} {broker:?}").contains("u:p"));
    }
}
