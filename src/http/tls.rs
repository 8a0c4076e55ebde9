//! TLS for the connections of clients: versions 1.2 and 1.3, HTTP/1.1 only.

pub(crate) mod certificate;

use std::fmt;
use std::io::{Error, ErrorKind, Result};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;

use actix_web::rt::net::TcpStream;
use actix_web::rt::time::timeout;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{self, ServerConfig};

use self::certificate::CurrentCertificate;
use crate::delivery::transport::Transport;

/// How long a handshake may take: over a slow line it needs three round trips, and the sum of a processor.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// What the first byte of a connection is ([RFC 8446, section 5.1](https://www.rfc-editor.org/rfc/rfc8446#section-5.1)).
const HANDSHAKE: u8 = 22;

/// How much is read of a request without TLS, in bytes: if something is left when a connection is closed, the client may lose
/// the answer.
const PLAIN_HEAD: usize = 8 * 1024;

/// The answer to a request without TLS.
const PLAIN_ANSWER: &str = concat!(
    "HTTP/1.1 400 Bad Request\r\nContent-Type: application/problem+json\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n",
    r#"{"type":"malformed-request","title":"Malformed request","status":400,"detail":"this port speaks TLS: use https://"}"#,
);

/// Does the handshakes of new connections.
#[derive(Clone)]
pub(crate) struct TlsAcceptor(tokio_rustls::TlsAcceptor);

impl fmt::Debug for TlsAcceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsAcceptor")
    }
}

impl TlsAcceptor {
    /// Each new connection gets the certificate that is current then.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub(crate) fn new(certificate: Arc<CurrentCertificate>) -> std::result::Result<Self, rustls::Error> {
        let provider = Arc::new(ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13, &TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(certificate);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Clients that come back after a restart of a proxy need no signature again, and nothing is kept for them here.
        config.ticketer = ring::Ticketer::new()?;
        Ok(Self(Arc::new(config).into()))
    }

    /// Does the handshake of a connection.
    ///
    /// # Errors
    /// It takes too long, or the client speaks no TLS, or none of its versions that are accepted here.
    pub(super) async fn accept(&self, stream: TcpStream) -> Result<Transport> {
        let handshake = async {
            let mut first = [HANDSHAKE];
            stream.peek(&mut first).await?;
            if first != [HANDSHAKE] {
                return Err(refuse_plain(&stream));
            }
            self.0.accept(stream).await
        };
        let stream = timeout(HANDSHAKE_TIMEOUT, handshake).await.map_err(|_| ErrorKind::TimedOut)??;
        Ok(Transport::tls(stream))
    }
}

/// Says what is missing to a client without TLS. It gets no connection, so nothing waits for what the kernel does not take.
fn refuse_plain(stream: &TcpStream) -> Error {
    let _ = stream.try_read(&mut [0; PLAIN_HEAD]);
    let _ = stream.try_write(PLAIN_ANSWER.as_bytes());
    let _ = socket2::SockRef::from(stream).shutdown(Shutdown::Write);
    ErrorKind::InvalidData.into()
}
