//! A service that cannot start logs one line and exits with code 1.

use std::path::Path;
use std::process::Command;

use crate::harness::{Process, sql};

#[track_caller]
fn assert_refuses_to_start(database: &Path, flags: &[&str], why: &str) {
    let output = Process::output(database, flags);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    let lines: Vec<_> = errors.lines().filter(|line| line.contains("ERROR")).collect();
    assert_eq!(lines.len(), 1, "{errors}");
    assert!(lines[0].contains(why), "{why:?} in {errors}");
}

#[test]
fn a_second_process_on_the_same_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let database = directory.path().join("test.db");
    let process = Process::start(&database, &[]);
    let holder = format!("another process uses it (pid {}, http://{})", process.id(), process.address);
    assert_refuses_to_start(&database, &[], &holder);
    assert_refuses_to_start(&database, &["migrate"], &holder);
    drop(process);
    Process::start(&database, &[]);
}

#[test]
fn the_error_names_a_file_that_cannot_be_opened() {
    let directory = tempfile::tempdir().unwrap();
    assert_refuses_to_start(&directory.path().join("no/such/directory.db"), &[], "no/such/directory.db");
    let folder = directory.path().join("folder.db");
    std::fs::create_dir(&folder).unwrap();
    assert_refuses_to_start(&folder, &[], "folder.db");
}

#[test]
fn a_file_that_is_not_a_database_is_left_unchanged() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("notes.txt");
    let text = "not a database\n".repeat(1000);
    std::fs::write(&file, &text).unwrap();
    assert_refuses_to_start(&file, &[], "is not an SQLite database; it was not changed");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
}

#[test]
fn a_database_of_a_newer_version_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let database = directory.path().join("test.db");
    drop(Process::start(&database, &[]));
    sql(&database, "INSERT INTO __diesel_schema_migrations (version) VALUES ('29991231000000')");
    assert_refuses_to_start(&database, &[], "29991231000000");
}

#[test]
fn parts_of_the_memory_that_do_not_fit_are_refused_with_the_figures() {
    let directory = tempfile::tempdir().unwrap();
    let database = directory.path().join("test.db");
    assert_refuses_to_start(&database, &["--memory", "64MiB", "--shared-bodies", "64MiB"], "--shared-bodies 64.0 MiB");
    assert_refuses_to_start(&database, &["--page-caches", "1MiB"], "--page-caches 1.0 MiB is too little");
    assert!(!database.exists(), "nothing is opened before");
}

#[test]
fn the_error_names_an_address_that_is_in_use() {
    let directory = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_duality"))
        .args(["--listen", &address, "--database"])
        .arg(directory.path().join("test.db"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let port = taken.local_addr().unwrap().port();
    let error = format!(
        "cannot listen on {address}: it is in use; another port: --listen 127.0.0.1:{}",
        port.checked_add(1).unwrap_or(0)
    );
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains(&error), "{errors}");
}

#[test]
fn an_in_memory_database_is_private_and_removed_at_exit() {
    let memory = Path::new(":memory:");
    let (mut one, two) = (Process::start(memory, &[]), Process::start(memory, &[]));
    let post = |process: &Process| {
        let mut client = crate::harness::Client::connect(process.address);
        client.request("POST", "/persons", &[("Content-Type", "application/json")], Some(br#"{"name":"Ann"}"#))
    };
    assert_eq!((post(&one).revision(), post(&two).revision()), (1, 1));
    let log = one.log();
    let path = Path::new(log.split_once("database ").unwrap().1.split(" is open").next().unwrap()).to_owned();
    assert!(path.exists());
    one.signal("TERM");
    assert!(one.wait().success());
    assert!(!path.parent().unwrap().exists());
}

#[test]
fn a_started_service_answers_a_client_that_blocks_the_thread_of_its_system() {
    let directory = tempfile::tempdir().unwrap();
    let mut settings = duality::Settings::default();
    settings.database = directory.path().join("test.db");
    settings.listen = "127.0.0.1:0".to_owned();
    actix::System::new().block_on(async {
        let running = duality::aggregates::shipped().start(settings).await.unwrap();
        let address = running.addresses()[0];
        // Nothing else can run on this thread meanwhile.
        assert_eq!(crate::harness::Client::connect(address).request("GET", "/persons", &[], None).status, 200);
        running.stop().await.unwrap();
    });
}
