//! The address of a client behind proxies that the service trusts.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use actix_web::http::header::{FORWARDED, HeaderMap, HeaderName, X_FORWARDED_FOR};

/// The proxies whose word about their clients counts.
#[derive(Debug, Default)]
pub(crate) struct TrustedProxies(Vec<AddressRange>);

/// An address, or all that begin with the same bits (CIDR, [RFC 4632](https://www.rfc-editor.org/rfc/rfc4632#section-3.1)).
/// What is written as an IPv4-mapped IPv6 address ([RFC 4291](https://www.rfc-editor.org/rfc/rfc4291#section-2.5.5.2)) is the
/// IPv4 address, as it is of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AddressRange {
    address: IpAddr,
    /// How many bits count.
    bits: u32,
}

/// The bits before an IPv4 address in its IPv6 form.
const MAPPED_BITS: u32 = 96;

impl TrustedProxies {
    pub(crate) fn new(ranges: impl IntoIterator<Item = AddressRange>) -> Self {
        Self(ranges.into_iter().collect())
    }

    /// The address of the client that has sent a request: that of the peer, or, if the peer is trusted, the last one that its
    /// headers name and that is not trusted. Whatever is before it, the client may have sent. Headers with anything else than
    /// addresses in that place do not count, nor do both headers at once: one of them is not the proxy's.
    pub(super) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        if !self.trusts(peer) {
            return peer;
        }
        match (headers.contains_key(X_FORWARDED_FOR), headers.contains_key(FORWARDED)) {
            (true, false) => self.last_stranger(backwards(headers, &X_FORWARDED_FOR), node),
            (false, true) => self.last_stranger(backwards(headers, &FORWARDED), named_node),
            _ => None,
        }
        .unwrap_or(peer)
    }

    /// The first address that is not trusted; if all are, the last one of them. `None` before anything that is no address.
    fn last_stranger<'a>(
        &self,
        hops: impl Iterator<Item = Option<&'a str>>,
        read: fn(&str) -> Option<IpAddr>,
    ) -> Option<IpAddr> {
        let mut farthest = None;
        for hop in hops {
            let address = read(hop?)?;
            farthest = Some(address);
            if !self.trusts(address) {
                break;
            }
        }
        farthest
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.0.iter().any(|range| range.contains(address))
    }
}

/// The elements of a list in headers, the last one first; `None` for a header that is no text.
fn backwards<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = Option<&'a str>> {
    let values: Vec<_> = headers.get_all(name).collect();
    values.into_iter().rev().flat_map(|value| {
        let text = value.to_str().ok();
        let broken = text.is_none().then_some(None);
        text.into_iter().flat_map(|text| text.rsplit(',').map(Some)).chain(broken)
    })
}

/// The address in an element of `Forwarded` ([RFC 7239](https://www.rfc-editor.org/rfc/rfc7239#section-4)), which has to be its
/// own: not that of the element before it, which the client may have sent.
fn named_node(element: &str) -> Option<IpAddr> {
    let mut named = element.split(';').filter_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then_some(value.trim())
    });
    let value = named.next().filter(|_| named.next().is_none())?;
    node(value.strip_prefix('"').map_or(Some(value), |value| value.strip_suffix('"'))?)
}

/// An address with or without a port.
fn node(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse().or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip())).ok()
}

impl AddressRange {
    fn contains(self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(range), IpAddr::V4(address)) => {
                (range.to_bits() ^ address.to_bits()).checked_shr(32 - self.bits).unwrap_or(0) == 0
            }
            (IpAddr::V6(range), IpAddr::V6(address)) => {
                (range.to_bits() ^ address.to_bits()).checked_shr(128 - self.bits).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl FromStr for AddressRange {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| "there is no IP address")?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits: u32 =
            bits.map_or(Ok(most), str::parse).map_err(|_| "what follows the slash is not a number of bits")?;
        if bits > most {
            return Err("an address has fewer bits");
        }
        let canonical = address.to_canonical();
        if canonical == address {
            return Ok(Self { address, bits });
        }
        let bits = bits.checked_sub(MAPPED_BITS).ok_or("an IPv4 address in its IPv6 form has at least 96 bits")?;
        Ok(Self { address: canonical, bits })
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    fn proxies(ranges: &[&str]) -> TrustedProxies {
        TrustedProxies::new(ranges.iter().map(|range| range.parse().unwrap()))
    }

    #[test]
    fn a_range_has_the_addresses_with_its_first_bits() {
        for (range, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.8"),
            ("192.0.2.7", "::ffff:192.0.2.7", "::192.0.2.7"),
            ("192.0.2.128/25", "192.0.2.200", "192.0.2.1"),
            ("2001:db8::/32", "2001:db8:1::1", "2001:db9::1"),
            ("::1", "::1", "127.0.0.1"),
            ("::ffff:192.0.2.7", "192.0.2.7", "192.0.2.8"),
            ("::ffff:192.0.2.7", "::ffff:192.0.2.7", "::192.0.2.7"),
            ("::ffff:10.0.0.0/104", "10.255.0.1", "11.0.0.1"),
            ("::ffff:0:0/96", "203.0.113.1", "2001:db8::1"),
            ("0.0.0.0/0", "203.0.113.1", "::1"),
            ("::/0", "2001:db8::1", "203.0.113.1"),
        ] {
            let proxies = proxies(&[range]);
            assert!(proxies.trusts(inside.parse().unwrap()), "{range} {inside}");
            assert!(!proxies.trusts(outside.parse().unwrap()), "{range} {outside}");
        }
        for text in [
            "",
            "10.0.0.0/",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/-1",
            "10.0.0",
            "proxy.example",
            "10.0.0.1/8/8",
            "::ffff:10.0.0.0/95",
        ] {
            assert!(text.parse::<AddressRange>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_client_is_the_last_address_that_is_not_trusted() {
        let (x, f) = ("x-forwarded-for", "forwarded");
        for (headers, client) in [
            (&[][..], "10.0.0.1"),
            (&[(x, "192.0.2.1")], "192.0.2.1"),
            (&[(x, "192.0.2.1:4711")], "192.0.2.1"),
            (&[(x, "[2001:db8::1]:4711")], "2001:db8::1"),
            (&[(x, "2001:db8::1")], "2001:db8::1"),
            (&[(x, "198.51.100.9, 192.0.2.1")], "192.0.2.1"),
            (&[(x, "198.51.100.9,192.0.2.1, 10.0.0.2")], "192.0.2.1"),
            (&[(x, "198.51.100.9"), (x, "192.0.2.1"), (x, "10.0.0.2")], "192.0.2.1"),
            (&[(x, "10.0.0.3, 10.0.0.2")], "10.0.0.3"),
            (&[(x, "nonsense, 192.0.2.1")], "192.0.2.1"),
            (&[(x, "192.0.2.1, nonsense")], "10.0.0.1"),
            (&[(x, "192.0.2.1,")], "10.0.0.1"),
            (&[(x, "192.0.2.1, unknown, 10.0.0.2")], "10.0.0.1"),
            (&[(x, "")], "10.0.0.1"),
            (&[(f, "for=192.0.2.1")], "192.0.2.1"),
            (&[(f, "For=\"[2001:db8::1]:4711\";proto=https;by=10.0.0.1")], "2001:db8::1"),
            (&[(f, "for=198.51.100.9, for=192.0.2.1;host=a, for=10.0.0.2")], "192.0.2.1"),
            (&[(f, "for=198.51.100.9"), (f, "proto=https; for=\"192.0.2.1:80\"")], "192.0.2.1"),
            (&[(f, "for=192.0.2.1, proto=https")], "10.0.0.1"),
            (&[(f, "for=192.0.2.1;for=192.0.2.2")], "10.0.0.1"),
            (&[(f, "for=192.0.2.1, for=_hidden")], "10.0.0.1"),
            (&[(f, "for=\"192.0.2.1")], "10.0.0.1"),
            (&[(f, "for=192.0.2.1"), (x, "192.0.2.1")], "10.0.0.1"),
        ] {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
            }
            let proxies = proxies(&["10.0.0.0/8"]);
            assert_eq!(
                proxies.client("10.0.0.1".parse().unwrap(), &map),
                client.parse::<IpAddr>().unwrap(),
                "{headers:?}"
            );
            let stranger = "203.0.113.1".parse().unwrap();
            assert_eq!(proxies.client(stranger, &map), stranger, "{headers:?} of a peer that is not trusted");
        }
    }

    #[test]
    fn a_header_that_is_no_text_does_not_count() {
        let mut map = HeaderMap::new();
        map.append(X_FORWARDED_FOR, HeaderValue::from_static("192.0.2.1"));
        map.append(X_FORWARDED_FOR, HeaderValue::from_bytes(b"\xff").unwrap());
        let peer = "10.0.0.1".parse().unwrap();
        assert_eq!(proxies(&["10.0.0.1"]).client(peer, &map), peer);
    }
}
