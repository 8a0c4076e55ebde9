//! Where a message broker listens, and as whom to log in there.

use std::fmt;

use percent_encoding::percent_decode_str;

/// The URL of a message broker: `nats://host:4222`, or `tls://user:password@host:4222`.
///
/// Its texts for people have neither a user nor a password.
#[derive(Clone, PartialEq, Eq)]
pub struct BrokerUrl(String);

impl<T: Into<String>> From<T> for BrokerUrl {
    fn from(url: T) -> Self {
        Self(url.into())
    }
}

impl BrokerUrl {
    /// The parts of the URL.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn address(&self) -> Result<Address, &'static str> {
        Address::parse(self.0.trim())
    }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address() {
            Ok(address) => address.fmt(f),
            Err(_) => f.write_str("a text that may contain a password, and is not shown"),
        }
    }
}

impl fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The parts of the URL of a message broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) transport: Transport,
    /// A name or an IP address; one of version 6 is in brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) login: Option<Login>,
}

/// What a connection is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    /// TLS only if the server asks for it.
    Tcp,
    /// TLS, or no connection.
    Tls,
}

/// What proves to a server who one is.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Login {
    Password { user: String, password: String },
    Token(String),
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login")
    }
}

/// The port of NATS.
const DEFAULT_PORT: u16 = 4222;

impl Address {
    fn parse(url: &str) -> Result<Self, &'static str> {
        let (scheme, rest) = url.split_once("://").ok_or("it has no scheme")?;
        let transport = match scheme {
            "nats" => Transport::Tcp,
            "tls" => Transport::Tls,
            _ => return Err("the scheme is neither nats nor tls"),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (login, place) = match rest.rsplit_once('@') {
            Some((login, place)) => (Some(Login::parse(login)?), place),
            None => (None, rest),
        };
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_| "the port is no number")?),
            _ => (place, DEFAULT_PORT),
        };
        let is_ipv6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).is_some_and(|host| {
            !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.'))
        });
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        if host.is_empty() || !(is_ipv6 || host.bytes().all(is_name)) {
            return Err("the host is neither a name nor an IP address");
        }
        Ok(Self { transport, host: host.to_owned(), port, login })
    }
}

impl Login {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let decoded = |text: &str| match percent_decode_str(text).decode_utf8() {
            Ok(text) if !text.is_empty() => Ok(text.into_owned()),
            _ => Err("a part before the @ is empty, or not UTF-8"),
        };
        match text.split_once(':') {
            Some((user, password)) => Ok(Self::Password { user: decoded(user)?, password: decoded(password)? }),
            None => decoded(text).map(Self::Token),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.transport {
            Transport::Tcp => "nats",
            Transport::Tls => "tls",
        };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_and_written_without_its_password() {
        for (url, shown) in [
            ("nats://localhost", "nats://localhost:4222"),
            (" tls://broker.example:4443/ ", "tls://broker.example:4443"),
            ("nats://[::1]:4222", "nats://[::1]:4222"),
            ("nats://[::1]", "nats://[::1]:4222"),
            ("nats://user:s3cret@10.0.0.1:1", "nats://10.0.0.1:1"),
            ("nats://s3cret@broker", "nats://broker:4222"),
        ] {
            let url = BrokerUrl::from(url);
            assert_eq!((url.to_string(), format!("{url:?}")), (shown.to_owned(), shown.to_owned()));
            assert!(!format!("{:?}", url.address()).contains("s3cret"));
        }
        let login = |url: &str| BrokerUrl::from(url).address().unwrap().login;
        let password = Login::Password { user: "a@b".to_owned(), password: "c:d@".to_owned() };
        assert_eq!(login("nats://a%40b:c:d%40@host"), Some(password));
        assert_eq!(login("nats://token@host"), Some(Login::Token("token".to_owned())));
        assert_eq!(login("nats://host"), None);
    }

    #[test]
    fn what_is_no_address_is_refused_and_not_shown() {
        for (url, why) in [
            ("s3cret", "no scheme"),
            ("host:4222", "no scheme"),
            ("http://user:s3cret@host", "neither nats nor tls"),
            ("nats://", "the host"),
            ("nats://user:s3cret", "no number"),
            ("nats://user:@host", "before the @"),
            ("nats://host:66000", "no number"),
            ("nats://ho st", "the host"),
            ("nats://[:4222", "the host"),
            ("nats://host/path", "the host"),
        ] {
            let url = BrokerUrl::from(url);
            let error = url.address().expect_err(why);
            assert!(error.contains(why), "{error}");
            assert!(url.to_string().starts_with("a text that may"), "{url}");
        }
    }
}
