//! Other programs read the CSV files of projections exactly.

use std::io::Write as _;
use std::process::{Command, Stdio};

use duality::aggregates::{Location, Person};
use duality::{CsvFile, Event, Feed, Projection, ProjectionError, Service};
use serde_json::{Value, json};

use crate::harness::{App, eventually, not_tested};
use crate::projections::ITEMS;

/// The names of persons, which can contain any character.
struct Names;

impl Projection for Names {
    const NAME: &'static str = "names.csv";
    const FEED: Feed = Feed::Changes;
    const COLLECTIONS: &'static [&'static str] = &["persons"];
    const SETUP: &'static [&'static str] = &["person", "name"];

    type Sink = CsvFile;

    fn apply(file: &mut CsvFile, event: &Event<'_>) -> Result<(), ProjectionError> {
        let name = event.patch()?.and_then(|patch| patch["name"].as_str().map(str::to_owned));
        name.map_or(Ok(()), |name| file.line([event.key.as_str(), &name]))
    }
}

fn names() -> Service {
    Service::new().document::<Person>().derived::<Location>().background::<Names>()
}

/// The rows that Python reads from a file; `None` if Python is missing and not required.
fn python(text: &str) -> Option<Value> {
    let program = "import csv, io, json, sys\n\
                   text = sys.stdin.buffer.read().decode('utf-8')\n\
                   print(json.dumps(list(csv.reader(io.StringIO(text, newline=''), strict=True))))";
    let spawned = Command::new("python3").args(["-c", program]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let Ok(mut child) = spawned else {
        not_tested("Python's csv is", "there is no python3");
        return None;
    };
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

#[test]
fn python_reads_csv_files_exactly() {
    let app = App::start();
    let cart = app.open_cart();
    ITEMS.iter().for_each(|item| assert_eq!(app.add_item(&cart, item).status, 200));
    app.command(&format!("{cart}/close"));
    let key = cart.rsplit_once('/').unwrap().1;
    eventually("the line is written", || app.get("/projections/carts.csv").json()["at"] == ITEMS.len() + 2);
    let Some(read) = python(app.get("/reports/carts.csv").text()) else { return };
    assert_eq!((&read[1][0], &read[1][3], &read[1][5]), (&json!(key), &json!(ITEMS.join("; ")), &Value::Null));

    let app = App::serving(names, |_| {});
    let names = ["a\nb", "\r\n", "\r", "\"\n\"", ",\n;", "Ä\u{2028}ж\n日本", "plain", " padded ", "=1+1", "'", "a\tb"];
    let mut expected = vec![json!(["person", "name"])];
    for (name, number) in names.iter().zip(1..) {
        assert_eq!(app.post("/persons", &json!({"name": name, "city": null, "spouse": null}).to_string()).status, 201);
        expected.push(json!([number.to_string(), name]));
    }
    eventually("all lines are written", || app.get("/projections/names.csv").json()["at"] == names.len());
    assert_eq!(python(app.get("/reports/names.csv").text()), Some(json!(expected)));
}
