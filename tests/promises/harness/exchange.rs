//! Any bytes to a service, and whether its answers are HTTP. The fuzz target of the HTTP front uses this file as well.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

/// How long a service may be silent before the client ends its side of the connection: what it has sent may be half a
/// request, or the connection may stay open for the next one.
const PATIENCE: Duration = Duration::from_millis(50);

/// How long the answer may take then.
const DEADLINE: Duration = Duration::from_secs(60);

/// The answer to some bytes. The body of a stream has no end: it is cut after what has arrived with its head.
///
/// # Errors
/// The service neither answers nor closes the connection.
pub(crate) fn exchange(address: SocketAddr, request: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut socket = TcpStream::connect(address)?;
    // A service may have answered and closed before it has read everything.
    let _ = socket.write_all(request);
    socket.set_read_timeout(Some(PATIENCE))?;
    let (mut answer, mut buffer, mut has_ended) = (Vec::new(), [0; 16 * 1024], false);
    while !is_stream(&answer) {
        match socket.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => answer.extend_from_slice(&buffer[..read]),
            Err(error) if [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe].contains(&error.kind()) => break,
            Err(error) if !has_ended && [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()) => {
                has_ended = true;
                let _ = socket.shutdown(Shutdown::Write);
                socket.set_read_timeout(Some(DEADLINE))?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(answer)
}

fn is_stream(answer: &[u8]) -> bool {
    String::from_utf8_lossy(answer).contains("content-type: text/event-stream\r\n")
}

/// Checks that bytes are responses of HTTP/1.1 as a service may give them to anybody, one after another. The last one may be
/// cut, and so may be none.
///
/// # Errors
/// What is wrong.
pub(crate) fn check(mut answer: &[u8]) -> Result<(), String> {
    while !answer.is_empty() {
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n").ok_or("a head without an end")?;
        let head = std::str::from_utf8(&answer[..end]).map_err(|_| "a head that is not text")?;
        let mut lines = head.split("\r\n");
        let status = status(lines.next().unwrap_or_default())?;
        let headers: Vec<(&str, &str)> = lines
            .map(|line| line.split_once(": ").ok_or_else(|| format!("{line:?} is no header")))
            .collect::<Result<_, _>>()?;
        check_status(status, &headers, head)?;
        let header =
            |name: &str| headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| *value);
        let rest = &answer[end + 4..];
        let length = match header("content-length") {
            // A client cannot tell here whether the body was left out, so the end is that of the connection.
            Some(length) => length.parse::<usize>().map_err(|_| format!("{length:?} is no length"))?,
            None if [101, 204, 304].contains(&status) => 0,
            None => return Ok(()),
        };
        if rest.len() < length {
            return Ok(());
        }
        if header("content-type") == Some("application/problem+json")
            && !rest.starts_with(b"{")
            && !rest.starts_with(b"HTTP")
        {
            return Err(format!("a problem that is no object: {:?}", String::from_utf8_lossy(&rest[..length])));
        }
        // The response to HEAD has a length and no body.
        answer = if rest.starts_with(b"HTTP/1.") { rest } else { &rest[length..] };
    }
    Ok(())
}

fn status(line: &str) -> Result<u16, String> {
    let version = line.strip_prefix("HTTP/1.1 ").or_else(|| line.strip_prefix("HTTP/1.0 "));
    let status = version.and_then(|rest| rest.get(..3)?.parse().ok());
    status.filter(|status| (100..600).contains(status)).ok_or_else(|| format!("{line:?} is no status line"))
}

/// A server error that is not a request to come back later is a bug, whatever was sent.
fn check_status(status: u16, headers: &[(&str, &str)], head: &str) -> Result<(), String> {
    let has_retry = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("retry-after"));
    if status < 500 || ([503, 507].contains(&status) && has_retry) {
        return Ok(());
    }
    Err(format!("a server error: {head}"))
}
