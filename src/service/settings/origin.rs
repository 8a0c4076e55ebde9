//! Origins, as browsers write them ([RFC 6454, section 6.2](https://www.rfc-editor.org/rfc/rfc6454#section-6.2)).

/// Whether `text` is an origin as the header `Origin` has it: a scheme, a host and a port that is not the default one, in
/// lower case; or `null`, the origin of a local file.
///
/// # Errors
/// What keeps it from ever being equal to the header of a request.
pub(super) fn check(text: &str) -> Result<(), &'static str> {
    if text == "null" {
        return Ok(());
    }
    let (scheme, authority) = text.split_once("://").ok_or("it has no scheme")?;
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err("browsers send it in lower case");
    }
    if scheme.is_empty() || !scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte)) {
        return Err("its scheme is invalid");
    }
    if authority.contains(['/', '?', '#']) {
        return Err("an origin has no path, not even a slash at its end");
    }
    // The address of an IPv6 host has colons, and ends with a bracket.
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    if host.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) || host.contains(['@', '*', '"', '\\']) {
        return Err("its host is invalid");
    }
    match (scheme, port) {
        (_, None) => Ok(()),
        ("http", Some("80")) | ("https", Some("443")) => Err("browsers leave out the default port"),
        (_, Some(port)) => port.parse::<u16>().map(|_| ()).map_err(|_| "its port is invalid"),
    }
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn origins_as_browsers_send_them_are_accepted() {
        for origin in [
            "null",
            "https://app.example",
            "http://localhost:5173",
            "http://[::1]",
            "http://[::1]:8080",
            "chrome-extension://abcdef",
            "tauri://localhost",
        ] {
            assert_eq!(check(origin), Ok(()), "{origin}");
        }
    }

    #[test]
    fn what_no_browser_sends_is_rejected() {
        for (origin, why) in [
            ("app.example", "scheme"),
            ("http://", "host"),
            ("http://:80", "host"),
            ("https://app.example/", "path"),
            ("https://app.example/login", "path"),
            ("https://*.example", "host"),
            ("https://App.example", "lower case"),
            ("https://app.example:443", "default port"),
            ("http://app.example:80", "default port"),
            ("http://app.example:99999", "port"),
            ("http://a b", "host"),
            ("://x", "scheme"),
            ("", "scheme"),
        ] {
            assert!(check(origin).unwrap_err().contains(why), "{origin}: {:?}", check(origin));
        }
    }
}
