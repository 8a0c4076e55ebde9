//! What is refused before anything is done: writes by pages of other origins, and requests for a host that is not this
//! service.
//!
//! Browsers send simple requests of any page without asking first (<https://fetch.spec.whatwg.org/#simple-method>), so
//! CORS keeps nobody from writing. And a page can have its own name resolve to the address of this service (DNS
//! rebinding); then only the `Host` differs from that of an honest request.

use std::net::{IpAddr, Ipv6Addr};

use actix_web::dev::RequestHead;
use actix_web::http::header::{HOST, HeaderName, HeaderValue, ORIGIN};
use actix_web::http::{Method, Version, uri};

use super::problem::{Kind, Problem};

/// How a page relates to the service (<https://www.w3.org/TR/fetch-metadata/#sec-fetch-site-header>).
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// What load balancers ask for, under any name.
const EXEMPT: [&str; 2] = ["/healthz", "/readyz"];

/// The names of this service, and the origins whose pages may write.
#[derive(Debug)]
pub(crate) struct AccessPolicy {
    hosts: Hosts,
    origins: Vec<String>,
}

/// The names of this service, in addition to IP addresses and `localhost`.
#[derive(Debug)]
enum Hosts {
    Any,
    Named(Vec<String>),
}

impl AccessPolicy {
    /// `listen` are the addresses to listen on, whose names are known as well; a host of `*` stands for any. An origin of `*`
    /// lets all pages read, and none write.
    pub(crate) fn new(listen: &[&str], hosts: &[String], origins: &[String]) -> Self {
        if hosts.iter().any(|host| host == "*") {
            return Self { hosts: Hosts::Any, origins: origins.to_vec() };
        }
        let names = listen.iter().copied().chain(hosts.iter().map(String::as_str));
        let names = names.filter_map(Authority::parse).map(|authority| authority.host.to_owned()).collect();
        Self { hosts: Hosts::Named(names), origins: origins.to_vec() }
    }

    /// Whether the request may be answered.
    ///
    /// # Errors
    /// 400 if it names no host (RFC 9112, section 3.2), 421 if it names one that is not this service (RFC 9110, section
    /// 15.5.20), 403 if it is a write by a page of another origin.
    pub(super) fn check(&self, head: &RequestHead) -> Result<(), Problem> {
        self.check_with(head, |addressed| self.check_host(addressed))
    }

    /// The same for a request with a valid token in a header, whatever host it names: a page that reaches this service under
    /// a name of its own has no token.
    ///
    /// # Errors
    /// 400 if it names no host, 403 if it is a write by a page of another origin.
    pub(super) fn check_with_token(&self, head: &RequestHead) -> Result<(), Problem> {
        self.check_with(head, |_| Ok(()))
    }

    fn check_with(
        &self,
        head: &RequestHead,
        check_host: impl FnOnce(&Addressed<'_>) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        let addressed = Addressed::of(head);
        if !EXEMPT.contains(&head.uri.path()) {
            check_host(addressed.as_ref().map_err(|detail| Problem::new(Kind::MalformedRequest, *detail))?)?;
        }
        match head.method {
            Method::GET | Method::HEAD | Method::OPTIONS => Ok(()),
            _ => self.check_origin(head, addressed.ok().and_then(|addressed| addressed.first())),
        }
    }

    fn check_host(&self, addressed: &Addressed<'_>) -> Result<(), Problem> {
        let Some(first) = addressed.first() else { return Ok(()) };
        if addressed.names().any(|authority| self.knows(authority.host)) {
            return Ok(());
        }
        let host = first.host;
        let detail = format!("Host: {host} is not a name of this service; start it with --host {host} if it is one");
        Err(Problem::new(Kind::UnknownHost, detail))
    }

    fn knows(&self, host: &str) -> bool {
        let Hosts::Named(names) = &self.hosts else { return true };
        is_local(host) || host.parse::<IpAddr>().is_ok() || names.iter().any(|name| name.eq_ignore_ascii_case(host))
    }

    fn check_origin(&self, head: &RequestHead, authority: Option<Authority<'_>>) -> Result<(), Problem> {
        let mut sites = head.headers.get_all(&SEC_FETCH_SITE).peekable();
        let site = sites.peek().copied();
        if site.is_some() && sites.all(|site| site == "same-origin" || site == "none") {
            return Ok(());
        }
        let origins: Vec<_> = head.headers.get_all(ORIGIN).collect();
        match (&origins[..], site) {
            ([], None) => Ok(()),
            ([origin], _) if self.may_write(origin, authority) => Ok(()),
            ([origin, ..], _) => Err(foreign("Origin", origin)),
            ([], Some(site)) => Err(foreign("Sec-Fetch-Site", site)),
        }
    }

    fn may_write(&self, origin: &HeaderValue, authority: Option<Authority<'_>>) -> bool {
        let Ok(origin) = origin.to_str() else { return false };
        let is_listed = self.origins.iter().any(|listed| listed != "*" && listed.eq_ignore_ascii_case(origin));
        is_listed || authority.is_some_and(|authority| is_same(origin, authority))
    }
}

fn foreign(name: &str, value: &HeaderValue) -> Problem {
    let value = String::from_utf8_lossy(value.as_bytes());
    let detail = format!(
        "{name}: {value} is not the origin of this service, and pages of other origins must not write; --cors-origin \
         names the origins that may"
    );
    Problem::new(Kind::ForeignOrigin, detail)
}

fn is_local(host: &str) -> bool {
    let suffix = host.len().checked_sub("localhost".len()).and_then(|start| host.get(start..));
    let Some(_) = suffix.filter(|suffix| suffix.eq_ignore_ascii_case("localhost")) else { return false };
    host.len() == "localhost".len() || host[..host.len() - "localhost".len()].ends_with('.')
}

/// Whether an origin has the host and the port of this service. Its scheme may differ, because TLS may end at a proxy.
fn is_same(origin: &str, service: Authority<'_>) -> bool {
    let (default, rest) = match origin.split_once("://") {
        Some(("https", rest)) => (443, rest),
        Some(("http", rest)) => (80, rest),
        _ => return false,
    };
    let Some(page) = Authority::parse(rest) else { return false };
    let port = page.port.unwrap_or(default);
    let has_port = service.port.map_or(port == default, |service| service == port);
    has_port && page.host.eq_ignore_ascii_case(service.host)
}

/// Checks that a request can have this `Host`: a name, which may be followed by a port. `*` matches every name.
///
/// # Errors
/// What keeps it from being equal to the `Host` of a request.
pub(crate) fn check_host_name(text: &str) -> Result<(), &'static str> {
    if text == "*" {
        return Ok(());
    }
    if !text.is_ascii() {
        return Err("write it as clients send it: xn--…");
    }
    if text.contains('*') {
        return Err("there are no wildcards in names");
    }
    let authority = Authority::parse(text).ok_or("it has a scheme, a path, or what no name has")?;
    if authority.host.split('.').any(str::is_empty) {
        return Err("a part of it is empty");
    }
    Ok(())
}

/// A host and a port, as in `Host`. IPv6 addresses are without brackets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Authority<'a> {
    /// Without the dot at its end.
    host: &'a str,
    port: Option<u16>,
}

impl<'a> Authority<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']')?;
                host.parse::<Ipv6Addr>().ok()?;
                (host, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
            }
            None => text.rsplit_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
        };
        let port = port.filter(|port| !port.is_empty()).map(str::parse).transpose().ok()?;
        let host = host.strip_suffix('.').unwrap_or(host);
        let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        let is_host = text.starts_with('[') || host.bytes().all(is_valid);
        (is_host && !host.is_empty()).then_some(Self { host, port })
    }
}

/// Whom a request addresses.
#[derive(Debug, Clone, Copy)]
struct Addressed<'a> {
    /// In the request line (RFC 9112, section 3.2.2).
    target: Option<Authority<'a>>,
    /// In the header `Host`.
    host: Option<Authority<'a>>,
}

impl<'a> Addressed<'a> {
    fn of(head: &'a RequestHead) -> Result<Self, &'static str> {
        let target = head.uri.authority().map(uri::Authority::as_str);
        let target = target.map(|target| target.rsplit_once('@').map_or(target, |(_, host)| host));
        let target = target.map(|target| Authority::parse(target).ok_or("the request line has no valid host"));
        let mut hosts = head.headers.get_all(HOST);
        let host = match (hosts.next(), hosts.next()) {
            (None, _) if head.version < Version::HTTP_11 => None,
            (Some(host), None) => {
                let host = host.to_str().ok().and_then(Authority::parse);
                Some(host.ok_or("Host: expected a name or an IP address, with or without a port")?)
            }
            _ => return Err("Host: expected exactly one"),
        };
        Ok(Self { target: target.transpose()?, host })
    }

    /// The name that counts: the one in the request line, if there is one.
    fn first(&self) -> Option<Authority<'a>> {
        self.names().next()
    }

    /// Browsers send the same name in both places, so it is enough if one of them is known.
    fn names(&self) -> impl Iterator<Item = Authority<'a>> + use<'a> {
        self.target.into_iter().chain(self.host)
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    /// The slug of the problem, or an empty string if the request may be answered.
    fn verdict(policy: &AccessPolicy, method: &str, path: &str, version: Version, headers: &[(&str, &str)]) -> String {
        let request = TestRequest::default().method(method.parse().unwrap()).uri(path).version(version);
        let request = headers.iter().fold(request, |request, header| request.append_header(*header)).to_http_request();
        policy.check(request.head()).map_or_else(|problem| problem.slug().to_owned(), |()| String::new())
    }

    fn policy(listen: &str, hosts: &[&str], origins: &[&str]) -> AccessPolicy {
        let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        AccessPolicy::new(&[listen], &owned(hosts), &owned(origins))
    }

    #[test]
    fn the_host_of_a_request_is_known() {
        let ours = policy("shop.internal:3000", &["shop.example", "Other.Example:8443"], &[]);
        for host in [
            "localhost",
            "LOCALHOST:3000",
            "localhost.",
            "app.localhost:1",
            "127.0.0.1",
            "192.0.2.7:3000",
            "[::1]:3000",
            "[2001:db8::1]",
            "shop.internal",
            "shop.internal:80",
            "shop.example.:443",
            "SHOP.example",
            "other.example",
        ] {
            assert_eq!(verdict(&ours, "GET", "/persons", Version::HTTP_11, &[("Host", host)]), "", "{host}");
        }
        for (host, expected) in [
            ("attacker.example", "unknown-host"),
            ("attacker.example:3000", "unknown-host"),
            ("127.0.0.1.attacker.example", "unknown-host"),
            ("notlocalhost", "unknown-host"),
            ("localhost.attacker.example", "unknown-host"),
            ("2130706433", "unknown-host"),
            ("shop.example.attacker.example", "unknown-host"),
            ("", "malformed-request"),
            (":3000", "malformed-request"),
            ("[::1", "malformed-request"),
            ("[::1]x", "malformed-request"),
            ("::1", "malformed-request"),
            ("localhost:x", "malformed-request"),
            ("a@localhost", "malformed-request"),
            ("localhost, attacker.example", "malformed-request"),
        ] {
            for method in ["GET", "POST", "OPTIONS"] {
                let got = verdict(&ours, method, "/nowhere", Version::HTTP_11, &[("Host", host)]);
                assert_eq!(got, expected, "{method} {host}");
            }
        }
    }

    #[test]
    fn a_request_without_one_host_is_malformed_except_in_http_1_0() {
        let ours = policy("127.0.0.1:3000", &[], &[]);
        let two = [("Host", "localhost"), ("Host", "localhost")];
        assert_eq!(verdict(&ours, "GET", "/persons", Version::HTTP_10, &[]), "");
        assert_eq!(verdict(&ours, "POST", "/persons", Version::HTTP_10, &[]), "");
        assert_eq!(verdict(&ours, "GET", "/persons", Version::HTTP_11, &[]), "malformed-request");
        assert_eq!(verdict(&ours, "GET", "/persons", Version::HTTP_11, &two), "malformed-request");
        assert_eq!(verdict(&ours, "GET", "/persons", Version::HTTP_10, &two), "malformed-request");
    }

    #[test]
    fn a_name_in_the_request_line_counts_before_the_host() {
        let ours = policy("127.0.0.1:3000", &["shop.example"], &[]);
        let check =
            |method: &str, uri: &str, headers: &[(&str, &str)]| verdict(&ours, method, uri, Version::HTTP_11, headers);
        let elsewhere = ("Host", "elsewhere.example");
        assert_eq!(check("GET", "http://shop.example/persons", &[elsewhere]), "");
        assert_eq!(check("GET", "http://user@shop.example:3000/persons", &[elsewhere]), "");
        assert_eq!(check("GET", "http://elsewhere.example/persons", &[elsewhere]), "unknown-host");
        let shop = ("Origin", "https://shop.example");
        assert_eq!(check("POST", "http://shop.example/persons", &[elsewhere, shop]), "");
        let other = ("Origin", "https://elsewhere.example");
        assert_eq!(check("POST", "http://shop.example/persons", &[elsewhere, other]), "foreign-origin");
    }

    #[test]
    fn a_forwarded_host_is_no_host_and_health_has_any() {
        let ours = policy("127.0.0.1:3000", &[], &[]);
        let forwarded =
            [("Host", "elsewhere.example"), ("X-Forwarded-Host", "localhost"), ("Forwarded", "host=localhost")];
        let check = |path| verdict(&ours, "GET", path, Version::HTTP_11, &forwarded);
        assert_eq!(check("/persons"), "unknown-host");
        assert_eq!(check("/metrics"), "unknown-host");
        for path in ["/healthz", "/readyz", "/readyz?verbose"] {
            assert_eq!(check(path), "");
            assert_eq!(verdict(&ours, "GET", path, Version::HTTP_11, &[]), "", "a load balancer without a host");
        }
    }

    #[test]
    fn any_host_is_known_if_the_settings_say_so() {
        let any = policy("127.0.0.1:3000", &["*"], &[]);
        let elsewhere = ("Host", "elsewhere.example");
        assert_eq!(verdict(&any, "GET", "/persons", Version::HTTP_11, &[elsewhere]), "");
        let origin = ("Origin", "https://attacker.example");
        assert_eq!(verdict(&any, "POST", "/persons", Version::HTTP_11, &[elsewhere, origin]), "foreign-origin");
    }

    #[test]
    fn a_page_writes_only_to_its_own_origin_or_if_it_is_listed() {
        let ours = policy("127.0.0.1:3000", &["shop.example"], &["https://admin.example", "*"]);
        let nobody: [&str; 0] = [];
        for (host, origins, sites, may) in [
            ("localhost:3000", &nobody[..], &nobody[..], true),
            ("localhost:3000", &["http://localhost:3000"], &[], true),
            ("localhost:3000", &["http://LOCALHOST:3000"], &["cross-site"], true),
            ("localhost:3000", &["https://localhost:3000"], &["same-site"], true),
            ("localhost:3000", &["http://127.0.0.1:3000"], &[], false),
            ("localhost:3000", &["http://localhost:8080"], &["same-site"], false),
            ("localhost:3000", &["http://localhost"], &[], false),
            ("localhost:3000", &["null"], &[], false),
            ("localhost:3000", &["http://localhost:3000", "http://localhost:3000"], &[], false),
            ("localhost:3000", &["https://elsewhere.example"], &["cross-site"], false),
            ("localhost:3000", &["https://elsewhere.example"], &[], false),
            ("localhost:3000", &["https://admin.example"], &["cross-site"], true),
            ("localhost:3000", &["http://admin.example"], &["cross-site"], false),
            ("localhost:3000", &["*"], &[], false),
            ("localhost:3000", &["chrome-extension://localhost:3000"], &[], false),
            ("localhost:3000", &["localhost:3000"], &[], false),
            ("localhost:3000", &["http://localhost:3000.elsewhere.example"], &[], false),
            ("localhost:3000", &["http://localhost:3000@elsewhere.example"], &[], false),
            ("localhost:3000", &["\u{fc}"], &[], false),
            ("localhost:3000", &[], &["same-origin"], true),
            ("localhost:3000", &[], &["none"], true),
            ("localhost:3000", &[], &["cross-site"], false),
            ("localhost:3000", &[], &["same-site"], false),
            ("localhost:3000", &[], &["Same-Origin"], false),
            ("localhost:3000", &[], &["same-origin", "cross-site"], false),
            ("localhost:3000", &["https://elsewhere.example"], &["same-origin"], true),
            // TLS ends at a proxy.
            ("shop.example", &["https://shop.example"], &[], true),
            ("shop.example", &["http://shop.example"], &[], true),
            ("shop.example:443", &["https://shop.example"], &[], true),
            ("shop.example:8443", &["https://shop.example:8443"], &[], true),
            ("shop.example", &["https://shop.example:8443"], &[], false),
            ("[::1]:3000", &["http://[::1]:3000"], &[], true),
        ] {
            let origins = origins.iter().map(|origin| ("Origin", *origin));
            let sites = sites.iter().map(|site| ("Sec-Fetch-Site", *site));
            let headers: Vec<_> = [("Host", host)].into_iter().chain(origins).chain(sites).collect();
            for method in ["POST", "PUT", "PATCH", "DELETE", "BREW"] {
                let got = verdict(&ours, method, "/persons", Version::HTTP_11, &headers);
                assert_eq!(got, if may { "" } else { "foreign-origin" }, "{method} {headers:?}");
            }
            for method in ["GET", "HEAD", "OPTIONS"] {
                assert_eq!(verdict(&ours, method, "/persons", Version::HTTP_11, &headers), "", "{method} {headers:?}");
            }
        }
    }

    #[test]
    fn a_name_that_no_request_can_be_for_is_refused() {
        for name in ["*", "shop.example", "shop.example.", "shop.example:8080", "a_b", "xn--4ca.example", "[::1]"] {
            assert_eq!(check_host_name(name), Ok(()), "{name}");
        }
        for (name, why) in [
            ("a:b", "no name"),
            ("ex*mple", "wildcards"),
            ("*.example", "wildcards"),
            ("[::1", "no name"),
            ("..", "empty"),
            (".example", "empty"),
            ("", "no name"),
            ("\u{e4}.example", "xn--"),
            ("a?b", "no name"),
            ("https://shop.example", "scheme"),
        ] {
            assert!(check_host_name(name).is_err_and(|found| found.contains(why)), "{name}");
        }
    }
}
