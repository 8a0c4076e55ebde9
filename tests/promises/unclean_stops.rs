//! After a stop that was not in order, the database is compared with itself.

use std::path::{Path, PathBuf};

use crate::harness::{App, Client, Process, enlarge, eventually, lines, output_of, sql_in_log};

/// A stopped database with some events, and the name for a copy of it.
fn stopped() -> (App, PathBuf) {
    let mut app = App::start();
    for _ in 0..3 {
        let cart = app.open_cart();
        app.add_item(&cart, "apple");
    }
    app.stop();
    let copy = app.database().with_file_name("copy.db");
    (app, copy)
}

fn starts_with_log(database: &Path, expected: &str) {
    let mut process = Process::start(database, &[]);
    eventually("the file is checked", || process.log().contains(expected));
    process.signal("TERM");
    assert!(process.wait().success(), "{}", process.log());
}

#[test]
fn a_sound_file_is_checked_in_the_background_once() {
    let (app, copy) = stopped();
    sql_in_log(app.database(), &copy, "UPDATE collections SET changed = 6");
    starts_with_log(&copy, "copy.db is sound");
    let process = Process::start(&copy, &[]);
    assert!(!process.log().contains("did not stop in order"), "{}", process.log());
}

#[test]
fn the_check_takes_no_reading_thread_and_a_stop_does_not_wait_for_it() {
    let mut app = App::start();
    app.stop();
    enlarge(app.database());
    let copy = app.database().with_file_name("copy.db");
    sql_in_log(app.database(), &copy, "UPDATE collections SET next_key = next_key + 1 WHERE name = 'persons'");
    let mut process = Process::start(&copy, &["--readers", "1"]);
    let persons = Client::connect(process.address).request("GET", "/persons", &[], None);
    assert_eq!(persons.json().as_object().unwrap().len(), 20_000);
    process.signal("TERM");
    assert!(process.wait().success(), "{}", process.log());
    assert!(!process.log().contains("is busy"), "{}", process.log());
    // Whether or not the check had ended, nothing is lost.
    assert_eq!(output_of(&copy, &["verify"]).0, 0);
    starts_with_log(&copy, "is open");
}

#[test]
fn a_damaged_file_is_reported() {
    let (app, copy) = stopped();
    let number = |query: &str| lines(app.database(), query)[0].parse::<usize>().unwrap();
    let root = number("SELECT rootpage || '' AS line FROM sqlite_schema WHERE name = 'journal'");
    let size = number("SELECT page_size || '' AS line FROM pragma_page_size");
    // Swaps the second and the third event of a page. Cell pointers follow the header of 8 bytes.
    let mut file = std::fs::read(app.database()).unwrap();
    let second = (root - 1) * size + 8 + 2;
    assert_eq!(file[second - 10], 13, "the journal fits into one page");
    file[second..second + 4].rotate_left(2);
    std::fs::write(app.database(), file).unwrap();
    sql_in_log(app.database(), &copy, "UPDATE collections SET changed = 6");
    starts_with_log(&copy, "copy.db is damaged");
}

#[test]
fn a_service_does_not_start_with_a_counter_that_would_give_numbers_twice() {
    let (app, copy) = stopped();
    for (damage, finding) in [
        ("UPDATE metadata SET pruned = 7", "the last revision is 6, but change events are pruned up to 7"),
        ("UPDATE metadata SET epoch = 'otherone'", "the last epoch is not that of the database"),
    ] {
        sql_in_log(app.database(), &copy, damage);
        let output = Process::output(&copy, &[]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(finding) && said.contains("duality restore"), "{said}");
    }
}
