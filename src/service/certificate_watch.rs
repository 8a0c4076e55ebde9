//! Reads the certificate again when its files change, and when somebody asks for it.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use actix::ArbiterHandle;
use actix_web::rt;

use crate::http::tls::TlsAcceptor;
use crate::http::tls::certificate::{CertificateFiles, CurrentCertificate, InvalidCertificate, Stamps};
use crate::storage::database::Database;
use crate::storage::health::Part;
use crate::storage::location::mode_for_others;

/// How often is looked whether the files have changed. They are read when they are as they were at the look before: a
/// certificate and its key are written one after the other.
const INTERVAL: Duration = Duration::from_secs(1);

/// The certificate of a service, and where it comes from.
#[derive(Clone)]
pub(super) struct CertificateWatch {
    files: CertificateFiles,
    current: Arc<CurrentCertificate>,
    database: Arc<Database>,
    /// How the files were when they were read.
    read: Arc<Mutex<Stamps>>,
}

impl CertificateWatch {
    /// Reads the certificate for the first time.
    ///
    /// # Errors
    /// The files have none. Settings that were checked have one, unless the files have changed since.
    pub(super) fn new(files: CertificateFiles, database: &Arc<Database>) -> Result<Self, InvalidCertificate> {
        let read = Arc::new(Mutex::new(files.stamps()));
        let certificate = files.read()?;
        if let Some(mode) = mode_for_others(&files.key) {
            let file = files.key.display();
            log::warn!(
                "every user of this machine can read the private key {file} (mode {mode:04o}); to keep it to its owner: \
                 chmod o-rwx {file}"
            );
        }
        Ok(Self { files, current: CurrentCertificate::new(certificate), database: Arc::clone(database), read })
    }

    /// What does the handshakes with the certificate that is current.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub(super) fn acceptor(&self) -> std::io::Result<TlsAcceptor> {
        TlsAcceptor::new(Arc::clone(&self.current)).map_err(std::io::Error::other)
    }

    /// Reads the files again when they change, on a thread of the service.
    pub(super) fn begin(&self, thread: &ArbiterHandle) {
        let watch = self.clone();
        thread.spawn(async move {
            let mut seen = watch.files.stamps();
            loop {
                rt::time::sleep(INTERVAL).await;
                let now = watch.files.stamps();
                if now == seen && now != *watch.read() {
                    watch.reload();
                }
                seen = now;
            }
        });
    }

    /// Reads the files. If they have no certificate, the one before stays in use.
    pub(super) fn reload(&self) {
        let health = self.database.health();
        *self.read() = self.files.stamps();
        match self.files.read() {
            Ok(certificate) => {
                self.current.replace(certificate);
                health.recover(Part::Certificate);
                log::info!("new connections get the certificate that is now in {}", self.files.certificate.display());
            }
            Err(why) => health.fail(Part::Certificate, &format!("{why}; the one before stays in use")),
        }
    }

    fn read(&self) -> MutexGuard<'_, Stamps> {
        self.read.lock().expect("nobody panics while comparing numbers")
    }
}
