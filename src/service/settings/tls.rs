//! The settings for TLS: whether they fit together.

use std::path::Path;

use super::{InvalidSetting, Settings};
#[cfg(feature = "tls")]
use crate::http::tls::certificate::CertificateFiles;

/// Checks that there is a certificate with its private key, or neither.
///
/// # Errors
/// Names the setting, and what was expected.
pub(super) fn check(settings: &Settings) -> Result<(), InvalidSetting> {
    let refuse = |flag, expected: &str, file: &Path| {
        Err(InvalidSetting { flag, expected: expected.to_owned(), value: file.to_string_lossy().into_owned() })
    };
    match (&settings.tls_cert, &settings.tls_key) {
        (None, None) => Ok(()),
        (Some(file), None) => refuse("tls-cert", "--tls-key beside it", file),
        (None, Some(file)) => refuse("tls-key", "--tls-cert beside it", file),
        (Some(file), Some(_)) => check_pair(settings, file, refuse),
    }
}

#[cfg(feature = "tls")]
fn check_pair(
    settings: &Settings,
    file: &Path,
    refuse: impl FnOnce(&'static str, &str, &Path) -> Result<(), InvalidSetting>,
) -> Result<(), InvalidSetting> {
    let files = settings.certificate_files();
    match files.map(|files| files.read()) {
        Some(Err(why)) => refuse("tls-cert", &format!("a certificate, and its private key in --tls-key ({why})"), file),
        _ => Ok(()),
    }
}

#[cfg(not(feature = "tls"))]
fn check_pair(
    _: &Settings,
    file: &Path,
    refuse: impl FnOnce(&'static str, &str, &Path) -> Result<(), InvalidSetting>,
) -> Result<(), InvalidSetting> {
    refuse(
        "tls-cert",
        "a program with TLS, and this one was built without it (cargo build --release --features tls)",
        file,
    )
}

#[cfg(feature = "tls")]
impl Settings {
    /// Where the certificate and its private key are; `None` without TLS.
    pub(in crate::service) fn certificate_files(&self) -> Option<CertificateFiles> {
        let (certificate, key) = (self.tls_cert.clone()?, self.tls_key.clone()?);
        Some(CertificateFiles { certificate, key })
    }
}
