//! Over TLS, everything is as it is without: requests, streams, limits and deadlines. A certificate is replaced while
//! connections are open.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{App, Authority, Certificate, Client, Process, Stream, count, eventually, not_tested, output_of};

const JSON: [(&str, &str); 1] = [("Content-Type", "application/json")];

/// A service with a certificate, and the directory of its files.
struct Secured {
    app: App,
    authority: Authority,
    certificate: Certificate,
    directory: tempfile::TempDir,
}

impl Secured {
    fn start() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut duality::Settings)) -> Self {
        let (authority, directory) = (Authority::new(), crate::harness::directory());
        let certificate = authority.certify();
        let app = App::with(|settings| {
            certificate.write(directory.path(), settings);
            change(settings);
        });
        Self { app, authority, certificate, directory }
    }

    fn client(&self) -> Client {
        Client::connect_tls(self.app.address, &self.authority)
    }

    fn follow(&self, path: &str) -> Stream {
        Stream::on(self.client(), path, &[])
    }

    #[track_caller]
    fn post(&self, path: &str, body: &Value) -> i64 {
        let response = self.client().request("POST", path, &JSON, Some(body.to_string().as_bytes()));
        assert_eq!(response.status, 201, "{}", response.text());
        response.revision()
    }

    /// The reasons why the service does not do all of its work, by part.
    fn failing(&self) -> Vec<String> {
        let health = self.client().request("GET", "/healthz", &[], None).json();
        health["reasons"].as_array().unwrap().iter().map(|reason| reason["part"].as_str().unwrap().to_owned()).collect()
    }

    fn reload(&self) {
        self.app.hook(|running| {
            running.reload();
            Box::pin(async {})
        });
    }
}

/// Connects, and speaks no TLS.
fn raw(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(crate::harness::DEADLINE)).unwrap();
    socket
}

/// What the other side sends until it ends the connection.
fn until_end(mut socket: &TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    match socket.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
    bytes
}

#[test]
fn reads_writes_streams_and_long_bodies_go_over_tls() {
    let secured = Secured::start();
    let mut stream = secured.follow("/person-events");
    let mut client = secured.client();
    let mut state = client.request("GET", "/persons", &[], None).json();
    let mut last = 0;
    for number in 0..40 {
        let long = "x".repeat(60_000);
        let body = json!({"name": format!("{number}{long}"), "city": "Rome"}).to_string();
        let created = client.request("POST", "/persons", &JSON, Some(body.as_bytes()));
        assert_eq!(created.status, 201, "on one connection, one after the other");
        last = created.revision();
    }
    let all = client.request("GET", "/persons", &[], None);
    assert!(all.body.len() > 2_000_000);
    let gzip = [("Accept-Encoding", "gzip")];
    assert_eq!(client.request("GET", "/persons", &gzip, None).header("Content-Encoding"), Some("gzip"));
    stream.follow(&mut state, last);
    assert_eq!(state, all.json(), "the copy is exact");
    let too_large = vec![b'x'; 2 << 20];
    let refused = secured.client().request("POST", "/persons", &JSON, Some(&too_large[..1_500_000]));
    refused.problem(413, "too-large");
}

#[test]
fn a_client_that_does_not_read_loses_nothing_and_costs_a_bounded_buffer() {
    let secured = Secured::with(|settings| settings.session_buffer = duality::ByteSize::kib(16));
    secured.post("/persons", &json!({"name": "first"}));
    let mut stalled = secured.follow("/person-events");
    let (mut client, mut last) = (secured.client(), 0);
    for number in 0..300 {
        let body = json!({"name": format!("{number}{}", "x".repeat(20_000))}).to_string();
        last = client.request("POST", "/persons", &JSON, Some(body.as_bytes())).revision();
    }
    assert!(secured.app.figure(duality::Running::queued_bytes) <= 200_000);
    let mut state = json!({});
    stalled.follow(&mut state, last);
    assert_eq!(state, client.request("GET", "/persons", &[], None).json());
}

#[test]
fn a_stream_over_tls_ends_with_its_client_and_with_the_service() {
    let mut secured = Secured::start();
    let stream = secured.follow("/person-events");
    eventually("it is open", || secured.app.sessions() == 1);
    stream.close();
    eventually("it is over", || secured.app.sessions() == 0);
    let mut stream = secured.follow("/person-events");
    secured.app.stop();
    assert_eq!(stream.try_next(), None, "it is cut");
}

#[test]
fn a_certificate_is_replaced_without_a_dropped_stream() {
    let secured = Secured::start();
    let mut stream = secured.follow("/person-events");
    let shown = |secured: &Secured| {
        let mut client = secured.client();
        assert_eq!(client.request("GET", "/healthz", &[], None).status, 200);
        client.certificate().unwrap()
    };
    assert_eq!(shown(&secured), secured.certificate.der);
    let next = secured.authority.certify();
    next.replace(secured.directory.path());
    eventually("a new connection gets the new one", || shown(&secured) == next.der);
    // Asked for, it is read at once.
    let last = secured.authority.certify();
    last.replace(secured.directory.path());
    secured.reload();
    assert_eq!(shown(&secured), last.der);
    let revision = secured.post("/persons", &json!({"name": "Ann"}));
    assert_eq!(stream.next().revision(), revision, "the connection is the one from before");
}

#[test]
fn a_pair_that_does_not_fit_keeps_the_last_one_and_is_reported() {
    let secured = Secured::start();
    let (directory, other) = (secured.directory.path(), secured.authority.certify());
    std::fs::write(directory.join("tls.pem"), &other.pem).unwrap();
    eventually("it is reported", || secured.failing() == ["certificate"]);
    let mut client = secured.client();
    let ready = client.request("GET", "/readyz", &[], None);
    assert_eq!(ready.status, 200, "it works with the one before");
    assert_eq!(ready.json()["reasons"][0]["part"], "certificate");
    assert_eq!(client.certificate().unwrap(), secured.certificate.der);
    std::fs::write(directory.join("tls.key"), "no key").unwrap();
    secured.reload();
    let health = secured.client().request("GET", "/healthz", &[], None).json();
    let reason = health["reasons"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("no private key in PEM") && reason.contains("the one before stays in use"), "{reason}");
    std::fs::write(directory.join("tls.key"), &other.key).unwrap();
    eventually("they fit together", || secured.failing().is_empty());
    let mut client = secured.client();
    client.request("GET", "/healthz", &[], None);
    assert_eq!(client.certificate().unwrap(), other.der);
}

#[test]
fn a_handshake_that_does_not_finish_counts_and_is_cut() {
    let secured = Secured::with(|settings| settings.max_connections_per_address = Some(count(3)));
    let open: Vec<_> = (0..3).map(|_| raw(secured.app.address)).collect();
    // Nothing, the type of a record, and half a hello.
    (&open[1]).write_all(&[22]).unwrap();
    (&open[2]).write_all(&[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3]).unwrap();
    assert_eq!(until_end(&raw(secured.app.address)), b"", "there are as many as one address may have");
    for socket in &open {
        assert_eq!(until_end(socket), b"");
    }
    eventually("there is room again", || {
        let mut client = secured.client();
        client.try_send("GET", "/healthz", &[], None).is_ok() && client.try_response("GET").is_ok()
    });
}

#[test]
fn half_a_head_over_tls_has_a_deadline() {
    let secured = Secured::with(|settings| settings.keep_alive = Duration::from_secs(1));
    let mut client = secured.client();
    assert_eq!(client.request("GET", "/persons", &[], None).status, 200);
    client.send_raw(b"GET /persons HTTP/1.1\r\nHost: localhost\r\nX-Filler: x");
    assert!(client.head().is_err(), "it is cut");
    let mut client = secured.client();
    assert_eq!(client.request("GET", "/persons", &[], None).status, 200);
    assert!(client.head().is_err(), "a quiet connection, too");
}

#[test]
fn requests_behind_a_stream_are_thrown_away_over_tls_as_well() {
    let secured = Secured::start();
    let mut client = secured.client();
    client.send("GET", "/person-events", &[("Accept", "text/event-stream")], None);
    assert_eq!(client.head().unwrap().status, 200);
    let get = "GET /persons HTTP/1.1\r\nHost: localhost\r\n\r\n";
    client.send_raw(get.repeat(17).as_bytes());
    assert!(client.chunk().unwrap().is_some_and(|chunk| chunk.starts_with(b":")), "it goes on");
    let revision = secured.post("/persons", &json!({"name": "Ann"}));
    let id = format!(".{revision}\n");
    while !client.chunk().unwrap().is_some_and(|chunk| String::from_utf8(chunk).unwrap().contains(&id)) {}
    client.send_raw(get.repeat(4000).as_bytes());
    eventually("the stream is over", || secured.app.sessions() == 0);
}

#[test]
fn a_request_without_tls_is_told_so_and_the_connection_closed() {
    let secured = Secured::start();
    let mut client = Client::connect(secured.app.address);
    client.send("GET", "/persons", &[], None);
    let head = client.head().unwrap();
    assert_eq!((head.status, head.header("Connection")), (400, Some("close")));
    let body = until_end(client.socket());
    // The head was read together with a part of the body.
    assert!(String::from_utf8_lossy(&body).len() < 200);
}

#[test]
fn clients_that_want_another_protocol_than_http_1_get_none() {
    let secured = Secured::start();
    for (offered, chosen) in [(&["h2", "http/1.1"][..], Some("http/1.1")), (&["h2"], None), (&[], Some(""))] {
        let mut connection = secured.authority.encrypt_for(raw(secured.app.address), offered);
        let done = connection.conn.complete_io(&mut connection.sock).is_ok();
        let got = connection.conn.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned());
        assert_eq!((done, got.as_deref().unwrap_or_default()), (chosen.is_some(), chosen.unwrap_or_default()));
    }
}

#[test]
fn only_tls_1_2_and_1_3_are_spoken() {
    if Command::new("openssl").arg("version").output().is_err() {
        not_tested("The versions of TLS are", "openssl is missing");
        return;
    }
    let secured = Secured::start();
    let authority = secured.directory.path().join("authority.pem");
    std::fs::write(&authority, secured.authority.pem()).unwrap();
    for (version, spoken) in [("tls1_3", true), ("tls1_2", true), ("tls1_1", false), ("tls1", false)] {
        let output = s_client(secured.app.address, &authority, &format!("-{version}"));
        // It is the service that refuses: because of the version, or of what old clients do not send.
        let refused = ["alert protocol version", "alert handshake failure"].iter().any(|alert| output.contains(alert));
        let verified = output.contains("Verify return code: 0 (ok)") && !output.contains("Cipher is (NONE)");
        assert_eq!((verified, refused), (spoken, !spoken), "{version}: {output}");
    }
}

/// What the client of OpenSSL prints. With level 0, it offers old versions at all.
fn s_client(address: SocketAddr, authority: &Path, version: &str) -> String {
    let mut client = Command::new("openssl");
    client.args(["s_client", "-connect", &address.to_string(), "-servername", "localhost", version]);
    client.args(["-cipher", "DEFAULT@SECLEVEL=0", "-CAfile"]).arg(authority);
    let output = client.stdin(Stdio::null()).output().unwrap();
    [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat()
}

#[test]
fn a_hangup_reads_the_certificate_again() {
    let (authority, directory) = (Authority::new(), crate::harness::directory());
    let (first, second) = (authority.certify(), authority.certify());
    let [certificate, key] = ["tls.pem", "tls.key"].map(|name| directory.path().join(name));
    first.replace(directory.path());
    let flags = ["--tls-cert", certificate.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
    let mut process = Process::start(&directory.path().join("test.db"), &flags);
    assert!(process.log().contains("listening on https://"), "{}", process.log());
    let mut stream = Stream::on(Client::connect_tls(process.address, &authority), "/person-events", &[]);
    second.replace(directory.path());
    process.signal("HUP");
    eventually("a new connection gets the new one", || {
        let mut client = Client::connect_tls(process.address, &authority);
        client.request("GET", "/healthz", &[], None);
        client.certificate().unwrap() == second.der
    });
    let mut client = Client::connect_tls(process.address, &authority);
    let created = client.request("POST", "/persons", &JSON, Some(br#"{"name":"Ann"}"#));
    assert_eq!(stream.next().revision(), created.revision());
    process.signal("TERM");
    assert!(process.wait().success());
}

#[test]
fn a_key_that_others_can_read_is_warned_about() {
    use std::os::unix::fs::PermissionsExt as _;
    let (authority, directory) = (Authority::new(), crate::harness::directory());
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    authority.certify().replace(directory.path());
    let [certificate, key] = ["tls.pem", "tls.key"].map(|name| directory.path().join(name));
    let flags = ["--tls-cert", certificate.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
    for (mode, is_warned) in [(0o644, true), (0o600, false)] {
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
        let process = Process::start(&directory.path().join("test.db"), &flags);
        assert_eq!(process.log().contains("can read the private key"), is_warned, "{}", process.log());
    }
}

#[test]
fn a_service_without_a_certificate_that_fits_does_not_start() {
    let (authority, directory) = (Authority::new(), crate::harness::directory());
    let (one, other) = (authority.certify(), authority.certify());
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (cert, key, wrong) = (file("cert", &one.pem), file("key", &one.key), file("wrong", &other.key));
    let (both, missing) = (file("both", &(one.key + &one.pem)), format!("{cert}.none"));
    let encrypted =
        file("encrypted", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n");
    let database = directory.path().join("test.db");
    for (flags, expected) in [
        (&["--tls-cert", &cert][..], "--tls-cert (DUALITY_TLS_CERT): expected --tls-key beside it"),
        (&["--tls-key", &key], "--tls-key (DUALITY_TLS_KEY): expected --tls-cert beside it"),
        (&["--tls-cert", &cert, "--tls-key", &wrong], "do not fit together"),
        (&["--tls-cert", &cert, "--tls-key", &missing], "cannot be read (No such file"),
        (&["--tls-cert", &cert, "--tls-key", &cert], "no private key in PEM"),
        (&["--tls-cert", &cert, "--tls-key", &encrypted], "only one that is encrypted"),
        (&["--tls-cert", &key, "--tls-key", &key], "no certificate in PEM"),
    ] {
        let (code, output) = output_of(&database, flags);
        assert!(code != 0 && output.contains(expected), "{flags:?}: {output}");
        assert!(!output.contains("PRIVATE KEY-----"), "{output}");
    }
    drop(Process::start(&database, &["--tls-cert", &both, "--tls-key", &both]));
}
