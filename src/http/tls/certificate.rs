//! The certificate of the service with its private key, which may change while connections are open.

use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};

use tokio_rustls::rustls;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject as _};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;

/// Where a certificate and its private key are, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CertificateFiles {
    /// The certificate of the service, and those between it and a root.
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// What of a file changes when it is written or replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

/// How both files are at a moment; `None` for one that cannot be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamps([Option<Stamp>; 2]);

/// Why two files are no certificate with its private key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidCertificate {
    #[error("{} cannot be read ({source})", file.display())]
    Unreadable { file: PathBuf, source: io::Error },
    #[error("{} has no certificate in PEM{}", file.display(), reason(.broken.as_ref()))]
    NoCertificate { file: PathBuf, broken: Option<pem::Error> },
    #[error("{} has no private key in PEM, or only one that is encrypted", file.display())]
    NoKey { file: PathBuf },
    #[error("the certificate and the private key do not fit together ({0})")]
    Mismatch(rustls::Error),
}

/// The certificate that new connections get.
pub(crate) struct CurrentCertificate(RwLock<Arc<CertifiedKey>>);

impl CertificateFiles {
    /// Reads both files, and checks that they belong together.
    ///
    /// # Errors
    /// Names the file, and what it lacks. Nothing of a private key is in there.
    pub(crate) fn read(&self) -> Result<CertifiedKey, InvalidCertificate> {
        let (certificate, key) = (read(&self.certificate)?, read(&self.key)?);
        let no_certificate = |broken| InvalidCertificate::NoCertificate { file: self.certificate.clone(), broken };
        let chain = CertificateDer::pem_slice_iter(&certificate).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|broken| no_certificate(Some(broken)))?;
        if chain.is_empty() {
            return Err(no_certificate(None));
        }
        let key = PrivateKeyDer::from_pem_slice(&key);
        let key = key.map_err(|_| InvalidCertificate::NoKey { file: self.key.clone() })?;
        CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(InvalidCertificate::Mismatch)
    }

    /// How the files are at the moment.
    pub(crate) fn stamps(&self) -> Stamps {
        Stamps([&self.certificate, &self.key].map(|file| Stamp::of(file)))
    }
}

impl Stamp {
    /// Follows symbolic links, which are what changes where certificates are renewed.
    fn of(file: &Path) -> Option<Self> {
        let found = file.metadata().ok()?;
        let modified = (found.mtime(), found.mtime_nsec());
        Some(Self { device: found.dev(), inode: found.ino(), bytes: found.len(), modified })
    }
}

impl CurrentCertificate {
    pub(crate) fn new(certificate: CertifiedKey) -> Arc<Self> {
        Arc::new(Self(RwLock::new(Arc::new(certificate))))
    }

    /// Connections from now on get another certificate. Those that are open keep theirs.
    pub(crate) fn replace(&self, certificate: CertifiedKey) {
        *self.0.write().expect("nobody panics while replacing a pointer") = Arc::new(certificate);
    }
}

impl ResolvesServerCert for CurrentCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().expect("nobody panics while replacing a pointer")))
    }
}

impl fmt::Debug for CurrentCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CurrentCertificate")
    }
}

fn read(file: &Path) -> Result<Vec<u8>, InvalidCertificate> {
    std::fs::read(file).map_err(|source| InvalidCertificate::Unreadable { file: file.to_owned(), source })
}

/// Why, in brackets, if that is known.
fn reason(broken: Option<&pem::Error>) -> String {
    broken.map_or_else(String::new, |broken| format!(" ({broken})"))
}
