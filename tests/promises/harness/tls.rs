//! Certificates of an authority that only a test knows, and connections to whoever has one of them.

use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use duality::Settings;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// A connection with TLS.
pub(crate) type Encrypted = StreamOwned<ClientConnection, TcpStream>;

/// Whoever signs certificates.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate for this machine, with its private key.
pub(crate) struct Certificate {
    pub(crate) pem: String,
    pub(crate) key: String,
    pub(crate) der: Vec<u8>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "the authority of a test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Another certificate each time.
    pub(crate) fn certify(&self) -> Certificate {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Certificate { pem: certificate.pem(), key: key.serialize_pem(), der: certificate.der().to_vec() }
    }

    /// What clients need, in PEM.
    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// Speaks TLS on a connection. The handshake is done with the first bytes.
    pub(crate) fn encrypt(&self, socket: TcpStream) -> Encrypted {
        self.encrypt_for(socket, &[])
    }

    /// The same, and offers these protocols.
    pub(crate) fn encrypt_for(&self, socket: TcpStream, protocols: &[&str]) -> Encrypted {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap();
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let name = ServerName::try_from("localhost").unwrap();
        StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), socket)
    }
}

impl Certificate {
    /// Writes it and its key into two files of a directory, and has a service use them.
    pub(crate) fn write(&self, directory: &Path, settings: &mut Settings) {
        let (certificate, key) = (directory.join("tls.pem"), directory.join("tls.key"));
        self.replace(directory);
        (settings.tls_cert, settings.tls_key) = (Some(certificate), Some(key));
    }

    /// Writes it over the one before.
    pub(crate) fn replace(&self, directory: &Path) {
        std::fs::write(directory.join("tls.pem"), &self.pem).unwrap();
        std::fs::write(directory.join("tls.key"), &self.key).unwrap();
    }
}
