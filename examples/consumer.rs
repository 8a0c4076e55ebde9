//! Prints a state whenever it changes, and stores it if asked. It needs a client for HTTP and a JSON parser, and no code of
//! this crate; HTTP/1.0, in which a body has no chunks, is short enough to be here.
//!
//! Run it with:
//!
//!     cargo run --example consumer -- http://localhost:3000/persons --store persons.json
//!
//! A service with tokens gets the one in `DUALITY_TOKEN`: what is on a command line can be seen by others.

use std::error::Error;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Map, Value, json};

/// The time without a byte after which a connection is dead: three heartbeats of the service.
const SILENCE: Duration = Duration::from_secs(45);

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Applies a merge patch (RFC 7396).
fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else { return *target = patch };
    let mut members = match target.take() {
        Value::Object(members) => members,
        _ => Map::new(),
    };
    for (key, value) in patch {
        match value {
            Value::Null => drop(members.remove(&key)),
            value => merge(members.entry(key).or_insert(Value::Null), value),
        }
    }
    *target = Value::Object(members);
}

/// A state with its id: each is worth nothing without the other.
struct Copy {
    state: Value,
    id: String,
    exact: bool,
}

impl Copy {
    /// Applies the messages of one stream, until it breaks.
    fn follow(&mut self, site: &Site) -> Result<()> {
        let (_, stream) = site.get(&site.feed(), &format!("Last-Event-ID: {}", self.id))?;
        let (mut data, mut id) = (None, None);
        for line in stream.lines() {
            let line = line?;
            match line.split_once(": ").unwrap_or((&line, "")) {
                ("data", text) => data = Some(serde_json::from_str(text)?),
                ("id", text) => id = Some(text.to_owned()),
                ("", _) => {
                    let Some(patch) = data.take() else { continue };
                    merge(&mut self.state, patch);
                    self.exact = id.as_ref().is_some_and(|id| !id.contains(".partial"));
                    self.id = id.take().unwrap_or(std::mem::take(&mut self.id));
                    self.publish(site)?;
                }
                _ => {}
            }
        }
        Err("the stream has ended".into())
    }

    fn load(site: &Site) -> Result<Self> {
        let (head, mut body) = site.get(&site.path, "Accept: application/json")?;
        let header = |name| head.lines().find_map(|line| line.strip_prefix(name));
        // What does not exist has a revision too, unless the path does not exist either.
        let epoch = header("x-epoch: ").ok_or("no X-Epoch")?;
        let revision = header("x-revision: ").ok_or("no X-Revision")?;
        let mut text = String::new();
        body.read_to_string(&mut text)?;
        let state = if head.contains(" 404 ") { Value::Null } else { serde_json::from_str(&text)? };
        Ok(Self { state, id: format!("{epoch}.{revision}"), exact: true })
    }

    fn stored(site: &Site) -> Option<Self> {
        let text = std::fs::read_to_string(site.store.as_ref()?).ok()?;
        let mut stored: Value = serde_json::from_str(&text).ok()?;
        let id = stored["id"].as_str().filter(|_| stored["path"] == site.path)?.to_owned();
        Some(Self { state: stored["state"].take(), exact: !id.contains(".partial"), id })
    }

    /// Stores and prints it. The new file takes the place of the old one at once.
    fn publish(&self, site: &Site) -> Result<()> {
        if let Some(store) = &site.store {
            let new = format!("{store}.new");
            std::fs::write(&new, json!({"path": site.path, "id": self.id, "state": self.state}).to_string())?;
            std::fs::rename(new, store)?;
        }
        let line = json!({"id": self.id, "exact": self.exact, "state": self.state});
        if writeln!(std::io::stdout(), "{line}").is_err() {
            // Nobody reads any more.
            std::process::exit(0);
        }
        Ok(())
    }
}

/// Where the state is, and where its copy is stored.
struct Site {
    address: String,
    path: String,
    store: Option<String>,
}

impl Site {
    fn from_arguments() -> Option<Self> {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let (url, store) = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            [url] => (url, None),
            [url, "--store", store] => (url, Some(store.to_owned())),
            _ => return None,
        };
        let (address, path) = url.strip_prefix("http://")?.split_once('/')?;
        Some(Self { address: address.to_owned(), path: format!("/{path}"), store })
    }

    /// `/aggregates` → `/events`, `/persons` → `/events/persons`, `/persons/2` → `/persons/2/events`
    fn feed(&self) -> String {
        match (self.path.as_str(), self.path.matches('/').count()) {
            ("/aggregates", _) => "/events".to_owned(),
            (collection, 1) => format!("/events{collection}"),
            (aggregate, _) => format!("{aggregate}/events"),
        }
    }

    /// The head of a response, with its names in lower case, and its body.
    fn get(&self, path: &str, header: &str) -> Result<(String, BufReader<TcpStream>)> {
        let mut connection = TcpStream::connect(&self.address)?;
        connection.set_read_timeout(Some(SILENCE))?;
        let token = std::env::var("DUALITY_TOKEN").map(|token| format!("Authorization: Bearer {token}\r\n"));
        let token = token.unwrap_or_default();
        write!(connection, "GET {path} HTTP/1.0\r\nHost: {}\r\n{token}{header}\r\n\r\n", self.address)?;
        let (mut head, mut response) = (String::new(), BufReader::new(connection));
        while response.read_line(&mut head)? > 2 {}
        let head = head.to_ascii_lowercase().replace("\r\n", "\n");
        let status = head.split(' ').nth(1).unwrap_or_default();
        if status == "200" || status == "404" { Ok((head, response)) } else { Err(head.into()) }
    }
}

fn main() -> Result<()> {
    let site = Site::from_arguments().ok_or("usage: consumer http://localhost:3000/persons [--store FILE]")?;
    let mut copy = Copy::stored(&site);
    loop {
        let broken = match &mut copy {
            Some(copy) => copy.follow(&site),
            none => Copy::load(&site).and_then(|loaded| none.insert(loaded).publish(&site)),
        };
        if let Err(error) = broken {
            writeln!(std::io::stderr(), "{error}")?;
            std::thread::sleep(Duration::from_secs(1));
        }
    }
}
