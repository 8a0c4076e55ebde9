//! Requests as bytes.

/// A request without a body.
pub fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").into_bytes()
}

/// Creates a person.
pub fn post(body: &str) -> Vec<u8> {
    with_body("POST", "/persons", body)
}

/// Books on an account.
pub fn book(account: &str) -> Vec<u8> {
    with_body("POST", &format!("/accounts/{account}/book"), r#"{"amount":1,"text":"rent"}"#)
}

/// Changes a person.
pub fn patch(key: &str, body: &str) -> Vec<u8> {
    with_body("PATCH", &format!("/persons/{key}"), body)
}

/// Deletes a person.
pub fn delete(key: &str) -> Vec<u8> {
    format!("DELETE /persons/{key} HTTP/1.1\r\nHost: localhost\r\n\r\n").into_bytes()
}

fn with_body(method: &str, path: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}
