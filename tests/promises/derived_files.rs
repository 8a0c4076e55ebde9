//! The files of projections are derived, so whatever happens to them, they are built again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{App, Client, Process, eventually};
use crate::own_projections::{status, wait_until_built};

const NAMES: [&str; 3] = ["cart_items", "carts.csv", "city_history"];

fn start() -> App {
    App::with(|settings| settings.poll_interval = Duration::from_millis(20))
}

/// Closes a cart with one item, and moves a person, who may be new, to a city.
fn write(app: &App, item: &str, city: &str) {
    let cart = app.open_cart();
    assert_eq!(app.add_item(&cart, item).status, 200);
    assert_eq!(app.command(&format!("{cart}/close")).status, 200);
    if app.patch("/persons/1", &json!({ "city": city }).to_string()).status == 404 {
        app.post("/persons", &json!({"name": "Ann", "city": city}).to_string());
    }
}

/// The items, the lines of the file, and the history of cities. Each request gets a report, or is asked to come back.
fn reports(app: &App) -> Option<(Value, Vec<String>, Value)> {
    let read = |report: &str| {
        let response = app.get(&format!("/reports/{report}"));
        if response.status == 200 {
            return Some(response);
        }
        response.problem(503, "busy");
        assert_eq!(response.header("Retry-After"), Some("1"));
        None
    };
    let items =
        read("popular-items")?.json()["items"].as_array().unwrap().iter().map(|row| row["item"].clone()).collect();
    let lines =
        read("carts.csv")?.text().lines().skip(1).map(|line| line.split(',').nth(2).unwrap().to_owned()).collect();
    let changes = read("city-history")?.json()["changes"].clone();
    let cities = changes.as_array().unwrap().iter().map(|row| json!([row["city"], row["total"]])).collect();
    Some((items, lines, cities))
}

#[track_caller]
fn wait_for_reports(app: &App, items: &[&str], cities: &Value) {
    let mut last = None;
    let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        eventually("the reports", || {
            last = reports(app);
            last.as_ref().is_some_and(|(found, lines, moves)| {
                let mut sorted = lines.clone();
                sorted.sort();
                let is_same = |found: &Value| {
                    found.as_array().unwrap().iter().map(|item| item.as_str().unwrap()).eq(items.iter().copied())
                };
                is_same(found) && sorted.len() == items.len() && moves == cities
            })
        });
    }));
    assert!(found.is_ok(), "{last:?} instead of {items:?} and {cities}; {}", app.get("/projections").text());
}

fn directory(app: &App) -> PathBuf {
    PathBuf::from(format!("{}.projections", app.files().display()))
}

/// A service whose projections are up to date.
fn filled() -> App {
    let app = start();
    write(&app, "apple", "Rome");
    wait_for_reports(&app, &["apple"], &json!([["Rome", 1]]));
    app
}

/// The reports after another write to a service that was `filled`.
#[track_caller]
fn assert_recovers(app: &App) {
    write(app, "pear", "Oslo");
    let moves = json!([["Rome", 1], ["Oslo", 1], ["Rome", 0]]);
    wait_for_reports(app, &["apple", "pear"], &moves);
    for name in NAMES {
        eventually("it is live", || status(app, name)["state"] == "live");
    }
    assert_eq!(app.get("/healthz").json()["status"], "ok");
}

#[test]
fn a_folder_of_projections_that_is_removed_is_built_again() {
    let mut app = filled();
    // The service may put the first file back before the last one is removed.
    eventually("it is removed", || std::fs::remove_dir_all(directory(&app)).is_ok());
    assert_recovers(&app);
    assert!(directory(&app).is_dir());
    app.stop();
    std::fs::remove_dir_all(directory(&app)).unwrap();
    app.resume();
    write(&app, "plum", "Rome");
    wait_until_built(&app, "carts.csv", 1);
    eventually("the reports", || reports(&app).is_some_and(|(_, lines, _)| lines.len() == 3));
}

#[test]
fn a_file_in_the_place_of_the_folder_is_named_and_does_not_stop_the_service() {
    let mut app = filled();
    app.stop();
    std::fs::remove_dir_all(directory(&app)).unwrap();
    std::fs::write(directory(&app), "not a folder").unwrap();
    app.resume();
    for name in NAMES {
        eventually("it is failing", || status(&app, name)["state"] == "failing");
        let error = status(&app, name)["error"]["message"].as_str().unwrap().to_owned();
        assert!(error.contains(directory(&app).to_str().unwrap()), "{error}");
    }
    assert_eq!(reports(&app), None);
    assert_eq!(app.get("/healthz").json()["status"], "degraded");
    std::fs::remove_file(directory(&app)).unwrap();
    assert_recovers(&app);
}

#[test]
fn an_unreadable_manifest_names_no_generation() {
    let directory = crate::harness::directory();
    let database = directory.path().join("test.db");
    let manifest = directory.path().join("test.db.projections/cart_items.json");
    let generation = |process: &Process| {
        let mut client = Client::connect(process.address);
        let mut found = Value::Null;
        eventually("it is live", || {
            found = client.request("GET", "/projections/cart_items", &[], None).json();
            found["state"] == "live"
        });
        found["generation"].clone()
    };
    assert_eq!(generation(&Process::start(&database, &[])), 1);
    for (content, expected) in [(Some("{\"current\":"), 2), (Some(""), 3), (Some("[1,2]"), 4), (None, 5)] {
        match content {
            Some(content) => std::fs::write(&manifest, content).unwrap(),
            None => std::fs::remove_file(&manifest).unwrap(),
        }
        let process = Process::start(&database, &[]);
        assert_eq!(generation(&process), expected, "numbers are not used twice: {content:?}");
        let warnings = process.log().lines().filter(|line| line.contains("is no manifest")).count();
        assert_eq!(warnings, usize::from(content.is_some()), "{}", process.log());
        assert!(!directory.path().join(format!("test.db.projections/cart_items.{}.db", expected - 1)).exists());
    }
}

fn truncate(file: &Path) {
    std::fs::OpenOptions::new().write(true).open(file).unwrap().set_len(20).unwrap();
}

/// Changes a letter in place.
fn edit(file: &Path) {
    use std::os::unix::fs::FileExt as _;
    let open = std::fs::OpenOptions::new().write(true).open(file).unwrap();
    open.write_all_at(b"X", open.metadata().unwrap().len() - 3).unwrap();
}

/// Writes another file in its place, as editors do.
fn replace(file: &Path) {
    let content = std::fs::read(file).unwrap();
    let new = file.with_extension("new");
    std::fs::write(&new, [&content[..], b"a line too many\r\n"].concat()).unwrap();
    std::fs::rename(new, file).unwrap();
}

#[test]
fn a_file_that_somebody_changed_is_written_again() {
    type Change = fn(&Path);
    let remove: Change = |file| std::fs::remove_file(file).unwrap();
    for (what, change) in [("truncate", truncate as Change), ("edit", edit), ("replace", replace), ("remove", remove)] {
        for restarts in [false, true] {
            let mut app = filled();
            let right = app.get("/reports/carts.csv").text().to_owned();
            let file = directory(&app).join("carts.csv.1.csv");
            if restarts {
                app.stop();
            }
            change(&file);
            if restarts {
                app.resume();
            }
            eventually(&format!("{what}, restarts: {restarts}"), || {
                let response = app.get("/reports/carts.csv");
                let is_whole = response.status == 200 && response.text() == right;
                // Nobody can tell while a service runs that is not stopped, until the projector looks.
                is_whole && (what == "replace" && restarts || status(&app, "carts.csv")["generation"] == 2)
            });
            assert_recovers(&app);
        }
    }
}

#[test]
fn a_file_that_was_only_touched_is_kept() {
    let app = filled();
    let file = directory(&app).join("carts.csv.1.csv");
    let modified = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    std::fs::File::options().write(true).open(&file).unwrap().set_modified(modified).unwrap();
    assert_recovers(&app);
    assert_eq!(status(&app, "carts.csv")["generation"], 1);
}

#[test]
fn a_history_that_is_removed_starts_over() {
    for restarts in [false, true] {
        let mut app = filled();
        if restarts {
            app.stop();
        }
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(directory(&app).join(format!("history.db{suffix}")));
        }
        if restarts {
            app.resume();
        }
        assert_recovers(&app);
        eventually("it was built again", || status(&app, "city_history")["generation"] == 2);
    }
}

#[test]
fn a_damaged_history_is_named_and_recovers_when_it_is_removed() {
    let mut app = filled();
    app.stop();
    let history = directory(&app).join("history.db");
    std::fs::write(&history, "no database ".repeat(1000)).unwrap();
    app.resume();
    eventually("it is failing", || status(&app, "city_history")["state"] == "failing");
    let error = status(&app, "city_history")["error"]["message"].as_str().unwrap().to_owned();
    assert!(error.contains(history.to_str().unwrap()) && error.contains("remove it"), "{error}");
    eventually("others continue", || status(&app, "cart_items")["state"] == "live");
    std::fs::remove_file(history).unwrap();
    assert_recovers(&app);
}

#[test]
fn damaged_tables_are_built_again() {
    // With and without a restart; the whole file, or what comes after its first page.
    for (restarts, first) in [(false, 0), (true, 0), (true, 4096)] {
        let mut app = filled();
        if restarts {
            app.stop();
        }
        let tables = directory(&app).join("cart_items.1.db");
        let length = usize::try_from(tables.metadata().unwrap().len()).unwrap();
        overwrite(&tables, first, &b"no database ".repeat(length / 12 - first / 12));
        let _ = std::fs::remove_file(directory(&app).join("cart_items.1.db-wal"));
        if restarts {
            app.resume();
        }
        eventually(&format!("it is built again: {restarts} {first}"), || {
            reports(&app);
            status(&app, "cart_items")["generation"] == 2
        });
        assert_recovers(&app);
    }
}

/// Writes into the file that is there.
fn overwrite(file: &Path, first: usize, content: &[u8]) {
    use std::os::unix::fs::FileExt as _;
    std::fs::OpenOptions::new().write(true).open(file).unwrap().write_all_at(content, first as u64).unwrap();
}
