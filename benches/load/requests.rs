//! Requests, ready to be sent.

/// A request without a body.
pub fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n").into_bytes()
}

/// A new person.
pub fn post(body: &str) -> Vec<u8> {
    with_body("POST", "/persons", body)
}

/// A change of a person.
pub fn patch(key: &str, body: &str) -> Vec<u8> {
    with_body("PATCH", &format!("/persons/{key}"), body)
}

/// The end of a person.
pub fn delete(key: &str) -> Vec<u8> {
    format!("DELETE /persons/{key} HTTP/1.1\r\nHost: bench\r\n\r\n").into_bytes()
}

fn with_body(method: &str, path: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}
