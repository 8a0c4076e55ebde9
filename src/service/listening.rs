//! The address of the service, and what to do if it cannot be had.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, ToSocketAddrs as _};

use crate::service::running::StartError;

/// Connections that may wait to be accepted: many clients come back at once when the service does.
const BACKLOG: i32 = 4096;

/// How many ports after a taken one are tried, to name a free one.
const TRIED: u16 = 100;

/// Who may reach the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Whoever can.
    Everybody,
    /// Those who are on this machine: the service listens on loopback addresses only.
    ThisMachine,
}

/// An address as it is in the settings, `HOST:PORT`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// The setting that has it, such as `--listen`.
    pub(super) setting: &'static str,
    pub(super) address: &'a str,
}

/// Listens on an address: the first of its forms that can be had.
///
/// # Errors
/// Names the address, and what to use in its place.
pub(super) fn listen(Wanted { setting, address }: Wanted<'_>, reach: Reach) -> Result<TcpListener, StartError> {
    let failed = |source| StartError::Listen { address: address.to_owned(), source };
    let forms = address.to_socket_addrs().map_err(|error| failed(unknown_host(&error)))?;
    let mut refused = io::Error::from(ErrorKind::AddrNotAvailable);
    for form in forms {
        if reach == Reach::ThisMachine && !form.ip().to_canonical().is_loopback() {
            return Err(StartError::Exposed { address: address.to_owned() });
        }
        match listen_on(form) {
            Ok(listener) => return Ok(listener),
            Err(error) => refused = error,
        }
    }
    let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
    Err(match (refused.kind(), port.parse()) {
        (ErrorKind::AddrInUse, Ok(port)) => {
            let other = free_port(host, port).map_or_else(|| format!("{host}:0"), |free| format!("{host}:{free}"));
            StartError::AddressInUse { setting, address: address.to_owned(), other }
        }
        _ => failed(explained(refused, setting, host)),
    })
}

fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    listener.set_reuse_address(true)?;
    listener.bind(&address.into())?;
    listener.listen(BACKLOG)?;
    Ok(listener.into())
}

/// The next port of a host that is free at the moment.
fn free_port(host: &str, taken: u16) -> Option<u16> {
    let next = (1..=TRIED).filter_map(|step| taken.checked_add(step));
    next.into_iter().find(|port| {
        let mut forms = format!("{host}:{port}").to_socket_addrs().into_iter().flatten();
        forms.any(|form| listen_on(form).is_ok())
    })
}

fn unknown_host(error: &io::Error) -> io::Error {
    let expected = "expected localhost, an IP address of this machine, or a name that resolves to one";
    io::Error::new(error.kind(), format!("the host is unknown ({error}); {expected}"))
}

/// The same error in words that say what to do, where something can be done.
fn explained(error: io::Error, setting: &str, host: &str) -> io::Error {
    let what = match error.kind() {
        ErrorKind::AddrNotAvailable => {
            "this machine does not have the address; use 127.0.0.1 for clients on this machine, or 0.0.0.0 for all"
                .into()
        }
        ErrorKind::PermissionDenied => {
            format!("ports below 1024 are for privileged users; another port: {setting} {host}:3000")
        }
        _ => return error,
    };
    io::Error::new(error.kind(), what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_for_privileged_users_names_the_setting_that_has_it() {
        for setting in ["--listen", "--operate-on"] {
            let error = explained(ErrorKind::PermissionDenied.into(), setting, "127.0.0.1").to_string();
            assert!(error.ends_with(&format!("another port: {setting} 127.0.0.1:3000")), "{error}");
        }
    }
}
