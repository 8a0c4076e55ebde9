//! A client that writes at random.

use serde_json::{Value, json};

use super::super::{Client, Random};

/// Cities are keys of locations. Some have a meaning in subjects, or cannot be in one.
pub(crate) const CITIES: [&str; 12] =
    ["Rome", "St. Gallen", "a/b", "a.b", "*", ">", "_", "__", "%2E", "😀", "Zürich", "\u{2028}"];

/// Writes persons, carts and accounts, of which others are derived.
pub(crate) struct Writer {
    random: Random,
}

impl Writer {
    pub(crate) fn new(seed: u64) -> Self {
        Self { random: Random::new(seed) }
    }

    /// Writes something, which a rule may refuse. `None` if there is no answer.
    pub(crate) fn write(&mut self, client: &mut Client) -> Option<()> {
        let (method, path, body) = self.next();
        let body = body.to_string();
        let body = Some(body.as_bytes()).filter(|_| method != "DELETE");
        client.try_send(method, &path, &[("Content-Type", "application/json")], body).ok()?;
        let response = client.try_response(method).ok()?;
        assert!([200, 201, 204, 404, 409, 422].contains(&response.status), "{method} {path}: {}", response.text());
        Some(())
    }

    fn next(&mut self) -> (&'static str, String, Value) {
        let random = &mut self.random;
        let name = format!("{:x}", random.below(1 << 40));
        let city = *random.one_of(&CITIES);
        let person = format!("/persons/{}", 1 + random.below(30));
        let of_one_of_six = |path: &str, number: u64| format!("/{path}/00000000-0000-4000-8000-00000000000{number}");
        let (cart, account) = (of_one_of_six("carts", random.below(6)), of_one_of_six("accounts", random.below(6)));
        match random.below(16) {
            0..=2 => ("POST", "/persons".to_owned(), json!({ "name": name, "city": city })),
            3..=5 => ("PATCH", person, json!({ "city": city })),
            6 => ("PATCH", person, json!({ "city": null, "name": name })),
            7 => ("PUT", person, json!({ "name": name, "city": city })),
            8..=9 => ("DELETE", person, Value::Null),
            10 => ("PUT", cart, json!({})),
            11..=12 => ("POST", format!("{cart}/add-item"), json!({ "item": name })),
            13 => ("PUT", account, json!({})),
            _ => ("POST", format!("{account}/book"), json!({ "amount": 5, "text": name })),
        }
    }
}
