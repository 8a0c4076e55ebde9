//! One file has one service, whatever its names are, and what lies beside it or in its place does no harm.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::harness::{App, Client, Process, Response, Stream, eventually, lines, output_of, sql};

const JSON: [(&str, &str); 1] = [("Content-Type", "application/json")];

/// Notices everything quickly, and ends soon after.
const QUICK: [&str; 4] = ["--poll-interval", "20ms", "--heartbeat", "500ms"];

fn post(process: &Process, name: &str) -> Response {
    let body = serde_json::json!({ "name": name }).to_string();
    Client::connect(process.address).request("POST", "/persons", &JSON, Some(body.as_bytes()))
}

fn get(process: &Process, path: &str) -> Response {
    Client::connect(process.address).request("GET", path, &[], None)
}

fn stop(mut process: Process) {
    process.signal("TERM");
    assert!(process.wait().success(), "{}", process.log());
}

/// `duality.db` → `duality.db-wal`
fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The kinds of the locks that a process has on a file, sorted, one of each.
fn locks(file: &Path, process: u32) -> Vec<String> {
    let inode = fs::metadata(file).unwrap().ino().to_string();
    let locks = fs::read_to_string("/proc/locks").unwrap();
    let mut kinds: Vec<_> = locks
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields[4] == process.to_string() && fields[5].rsplit(':').next() == Some(&inode))
        .map(|fields| fields[1].to_owned())
        .collect();
    kinds.sort();
    kinds.dedup();
    kinds
}

#[track_caller]
fn assert_refused(database: &Path, why: &[&str]) {
    let (code, log) = output_of(database, &[]);
    assert_eq!(code, 1, "{log}");
    for why in why {
        assert!(log.contains(why), "{why:?} in {log}");
    }
}

#[test]
fn a_second_process_is_refused_under_every_name_of_the_file_and_disturbs_no_lock() {
    let directory = crate::harness::directory();
    let database = directory.path().join("test.db");
    let process = Process::start(&database, &[]);
    post(&process, "Ann");
    let [hard, symbolic, folder] = ["hard.db", "symbolic.db", "folder"].map(|name| directory.path().join(name));
    fs::hard_link(&database, &hard).unwrap();
    std::os::unix::fs::symlink(&database, &symbolic).unwrap();
    fs::create_dir(&folder).unwrap();
    let relative = folder.join("../test.db");
    for name in [&hard, &symbolic, &relative] {
        assert_refused(name, &["another process uses it", if *name == hard { "under another name" } else { "pid " }]);
    }
    fs::remove_file(beside(&database, ".lock")).unwrap();
    assert_refused(&database, &["another process uses it"]);
    assert_eq!(locks(&database, process.id()), ["FLOCK", "POSIX"]);
    assert_eq!(post(&process, "Bob").status, 201);
}

#[test]
fn a_second_service_in_one_process_is_refused_under_every_name_of_the_file_and_disturbs_no_lock() {
    let mut app = App::start();
    app.post("/persons", r#"{"name":"Ann"}"#);
    let hard = app.database().with_extension("hard");
    fs::hard_link(app.database(), &hard).unwrap();
    let mut second = App::start();
    second.stop();
    for name in [hard, app.database().to_owned()] {
        second.change(|settings| settings.database = name);
        let refused = second.try_resume_serving(duality::aggregates::shipped).unwrap_err();
        assert!(refused.contains("another process uses it"), "{refused}");
        assert_eq!(locks(app.database(), std::process::id()), ["FLOCK", "POSIX"]);
    }
    // Another process would remove the log if it saw no lock.
    let count = "SELECT count(*) || '' AS line FROM aggregates";
    let output = std::process::Command::new("sqlite3").arg(app.database()).arg(count).output();
    if let Ok(output) = output {
        assert!(String::from_utf8_lossy(&output.stdout).starts_with('1'), "{output:?}");
    }
    assert!(beside(app.database(), "-wal").exists());
    app.post("/persons", r#"{"name":"Bob"}"#);
    app.restart();
    assert_eq!(app.get("/persons").json().as_object().unwrap().len(), 2);
}

#[test]
fn only_the_owner_can_read_the_files_and_a_stop_leaves_one_database_file() {
    let directory = crate::harness::directory();
    let database = directory.path().join("test.db");
    let process = Process::start(&database, &[]);
    post(&process, "Ann");
    let mut stream = Stream::open(process.address, "/person-events", &[]);
    assert_eq!(stream.next().revision(), 1);
    let is_live = || get(&process, "/projections").json()["projections"][0]["state"] == "live";
    eventually("the projections have their files", is_live);
    let mut folders = vec![directory.path().to_owned()];
    let mut names = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let metadata = entry.metadata().unwrap();
            if metadata.is_dir() {
                folders.push(entry.path());
            } else {
                let name = entry.file_name().into_string().unwrap();
                assert_eq!(metadata.permissions().mode() & 0o777, 0o600, "{name}");
                names.push(name);
            }
        }
    }
    for name in ["test.db", "test.db-wal", "test.db-shm", "test.db.lock", "test.db.sock"] {
        assert!(names.iter().any(|found| found == name), "{name} in {names:?}");
    }
    assert!(names.iter().any(|name| Path::new(name).extension().is_some_and(|kind| kind == "json")), "{names:?}");
    stop(process);
    for suffix in ["-wal", "-shm", ".sock"] {
        assert!(!beside(&database, suffix).exists(), "{suffix}");
    }
}

/// A database with one person, its copy in `copy.db`, and a service that has written another person since.
struct Ruin {
    directory: tempfile::TempDir,
    database: PathBuf,
    copy: PathBuf,
    process: Process,
}

impl Ruin {
    fn prepare() -> Self {
        Self::with(&QUICK)
    }

    fn with(flags: &[&str]) -> Self {
        let directory = crate::harness::directory();
        let database = directory.path().join("test.db");
        let process = Process::start(&database, flags);
        post(&process, "Ann");
        stop(process);
        let copy = directory.path().join("copy.db");
        fs::copy(&database, &copy).unwrap();
        // A copy of the file as it is fits its log.
        stop(Process::start(&database, flags));
        let process = Process::start(&database, flags);
        assert_eq!(post(&process, "Bob").status, 201);
        Self { directory, database, copy, process }
    }

    /// The service refuses everything, cuts its streams, and ends with exit code 1. Returns what lies where it ran.
    #[track_caller]
    fn assert_ends(self, found: &str) -> (tempfile::TempDir, PathBuf) {
        let Self { directory, database, mut process, .. } = self;
        let refused = post(&process, "Cid");
        refused.problem(503, "replaced");
        assert!(refused.header("Retry-After").is_some());
        for path in ["/persons", "/persons/1", "/person-events", "/aggregates", "/journal", "/projections"] {
            get(&process, path).problem(503, "replaced");
        }
        for path in ["/healthz", "/metrics"] {
            assert_eq!(get(&process, path).status, 200, "{path}");
        }
        assert_eq!(process.wait().code(), Some(1), "{}", process.log());
        let log = process.log();
        assert_eq!(log.matches("it was replaced:").count(), 1, "{log}");
        assert!(log.contains(found) && log.contains("start the service again"), "{found:?} in {log}");
        (directory, database)
    }
}

/// Ruins the files of a running service, which notices that by itself.
#[track_caller]
fn is_noticed(ruin: impl FnOnce(&Ruin), found: &str) -> (tempfile::TempDir, PathBuf) {
    let ruined = Ruin::prepare();
    let mut stream = Stream::open(ruined.process.address, "/person-events", &[]);
    let mut journal = Stream::open(ruined.process.address, "/journal", &[]);
    stream.read_until(|text| text.contains("Bob"));
    ruin(&ruined);
    while stream.message().is_some() {}
    while journal.message().is_some() {}
    ruined.assert_ends(found)
}

fn remove(database: &Path) {
    for suffix in ["", "-wal", "-shm", ".lock"] {
        fs::remove_file(beside(database, suffix)).unwrap();
    }
}

#[test]
fn a_write_into_a_file_that_was_removed_is_no_success() {
    // It would not notice that by itself.
    let ruin = Ruin::with(&["--poll-interval", "1h", "--heartbeat", "5s"]);
    let mut stream = Stream::open(ruin.process.address, "/person-events", &[]);
    remove(&ruin.database);
    post(&ruin.process, "lost").problem(503, "replaced");
    while stream.message().is_some() {}
    // Nobody else is kept out meanwhile.
    let second = Process::start(&ruin.database, &[]);
    assert_eq!(get(&second, "/persons").text(), "{}");
    assert_eq!(post(&second, "Dan").status, 201);
    stop(second);
    let (_directory, database) = ruin.assert_ends("was removed or renamed");
    let again = Process::start(&database, &[]);
    assert_eq!(get(&again, "/persons").text(), r#"{"1":{"name":"Dan"}}"#);
}

#[test]
fn a_removed_database_or_log_is_noticed() {
    is_noticed(|ruin| remove(&ruin.database), "was removed or renamed");
    // A connection that is opened before the next look at the files creates another log.
    is_noticed(|ruin| fs::remove_file(beside(&ruin.database, "-wal")).unwrap(), "test.db-wal");
}

#[test]
fn another_file_in_the_place_of_the_database_is_noticed_and_does_not_get_its_log() {
    let (_directory, database) =
        is_noticed(|ruin| fs::rename(&ruin.copy, &ruin.database).unwrap(), "is another file than the one that is open");
    assert_refused(&database, &["test.db-wal does not belong to it"]);
    for suffix in ["-wal", "-shm"] {
        fs::remove_file(beside(&database, suffix)).unwrap();
    }
    assert_eq!(get(&Process::start(&database, &[]), "/persons").text(), r#"{"1":{"name":"Ann"}}"#);
}

/// Overwrites a file, without a moment in which it is empty.
fn write_over(file: &Path, bytes: &[u8]) {
    OpenOptions::new().write(true).open(file).unwrap().write_all_at(bytes, 0).unwrap();
}

#[test]
fn a_copy_of_the_file_as_it_is_over_the_open_database_and_another_time_are_harmless() {
    let Ruin { directory: _directory, database, process, .. } = Ruin::prepare();
    write_over(&database, &fs::read(&database).unwrap());
    eventually("the time of the file is noticed", || process.log().contains("another program has written"));
    let touched = OpenOptions::new().write(true).open(&database).unwrap();
    touched.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(post(&process, "Cid").status, 201);
    assert_eq!(process.log().matches("another program has written").count(), 1, "{}", process.log());
    process.kill();
    let process = Process::start(&database, &QUICK);
    assert_eq!(get(&process, "/persons").json().as_object().unwrap().len(), 3);
    stop(process);
    assert_eq!(output_of(&database, &["verify"]).0, 0);
}

#[test]
fn a_copy_over_the_open_database_is_noticed_and_does_not_get_its_log() {
    let (_directory, database) =
        is_noticed(|ruin| write_over(&ruin.database, &fs::read(&ruin.copy).unwrap()), "another file was copied over");
    let before = fs::read(&database).unwrap();
    let log = fs::read(beside(&database, "-wal")).unwrap();
    assert_refused(&database, &["test.db-wal does not belong to it"]);
    assert!(before == fs::read(&database).unwrap() && log == fs::read(beside(&database, "-wal")).unwrap());
}

#[test]
fn a_truncated_database_or_log_is_noticed() {
    let truncate = |file: PathBuf, length| OpenOptions::new().write(true).open(file).unwrap().set_len(length).unwrap();
    is_noticed(|ruin| truncate(ruin.database.clone(), 0), "was truncated");
    is_noticed(|ruin| truncate(ruin.database.clone(), 8192), "test.db");
    is_noticed(|ruin| truncate(beside(&ruin.database, "-wal"), 4000), "was truncated");
}

#[test]
fn another_history_in_the_open_database_is_noticed() {
    is_noticed(|ruin| sql(&ruin.database, "UPDATE metadata SET epoch = '0therone'"), "has another history");
    let ruin = Ruin::prepare();
    sql(&ruin.database, "UPDATE metadata SET revision = revision + 5");
    post(&ruin.process, "Cid").problem(503, "replaced");
    ruin.assert_ends("has another history");
}

#[test]
fn a_log_beside_an_older_copy_is_refused_and_nothing_is_touched() {
    let Ruin { directory, database, copy, process } = Ruin::prepare();
    process.kill();
    let log = fs::read(beside(&database, "-wal")).unwrap();
    let own = fs::read(&database).unwrap();
    fs::copy(&copy, &database).unwrap();
    assert_refused(&database, &["test.db: the log", "test.db-wal does not belong to it", "move the -wal and the -shm"]);
    assert!(fs::read(&database).unwrap() == fs::read(&copy).unwrap(), "the copy is as it was");
    assert!(fs::read(beside(&database, "-wal")).unwrap() == log, "the log is as it was");
    fs::remove_file(&database).unwrap();
    assert_refused(&database, &["the database file is missing"]);
    assert!(fs::read(beside(&database, "-wal")).unwrap() == log, "the log is as it was");
    fs::write(&database, own).unwrap();
    let process = Process::start(&database, &[]);
    assert_eq!(get(&process, "/persons").text(), r#"{"1":{"name":"Ann"},"2":{"name":"Bob"}}"#);
    drop(directory);
}

#[test]
fn a_copy_of_an_earlier_log_is_refused_even_if_it_was_made_while_the_service_ran() {
    let directory = crate::harness::directory();
    let database = directory.path().join("test.db");
    let process = Process::start(&database, &QUICK);
    post(&process, "Ann");
    let copies = ["vacuumed.db", "checkpointed.db"].map(|name| directory.path().join(name));
    sql(&database, &format!("VACUUM INTO '{}'", copies[0].display()));
    let tag = || lines(&database, "SELECT user_version || '' AS line FROM pragma_user_version");
    let before = tag();
    // Another process moves the log into the file; the next log begins with a tag of its own nevertheless.
    sql(&database, "PRAGMA wal_checkpoint(TRUNCATE)");
    fs::copy(&database, &copies[1]).unwrap();
    assert_eq!(post(&process, "Bob").status, 201);
    assert_ne!(tag(), before);
    // The copies fit this log, but not the one after it.
    sql(&database, "PRAGMA wal_checkpoint(TRUNCATE)");
    assert_eq!(post(&process, "Cid").status, 201);
    process.kill();
    for copy in copies {
        fs::copy(copy, &database).unwrap();
        assert_refused(&database, &["test.db-wal does not belong to it"]);
    }
}

#[test]
fn a_copy_in_another_order_of_pages_does_not_get_the_log() {
    let directory = crate::harness::directory();
    let database = directory.path().join("test.db");
    let process = Process::start(&database, &[]);
    post(&process, "Ann");
    let copy = directory.path().join("copy.db");
    sql(&database, &format!("VACUUM INTO '{}'", copy.display()));
    post(&process, "Bob");
    process.kill();
    fs::copy(copy, &database).unwrap();
    // Which of the reasons it is depends on what happens to be at the places that the log overwrites.
    assert_refused(&database, &["test.db-wal does not belong to it"]);
}

#[test]
fn the_tools_of_sqlite_do_not_disturb_a_running_service() {
    let directory = crate::harness::directory();
    let database = directory.path().join("test.db");
    let process = Process::start(&database, &QUICK);
    for round in 0..30 {
        assert_eq!(post(&process, &format!("{round}")).status, 201);
        match round % 4 {
            0 => sql(&database, "PRAGMA wal_checkpoint(TRUNCATE)"),
            1 => sql(&database, "PRAGMA wal_checkpoint(PASSIVE)"),
            2 => sql(&database, "VACUUM"),
            _ => sql(&database, &format!("VACUUM INTO '{}/copy-{round}.db'", directory.path().display())),
        }
    }
    assert_eq!(get(&process, "/persons").json().as_object().unwrap().len(), 30);
    stop(process);
    assert_eq!(lines(&database, "SELECT integrity_check AS line FROM pragma_integrity_check"), ["ok"]);
}

#[test]
fn the_log_is_moved_into_the_file_while_the_service_runs() {
    let app = App::start();
    let body = format!(r#"{{"name":"{}"}}"#, "x".repeat(100_000));
    let log = || fs::metadata(beside(app.database(), "-wal")).unwrap().len();
    let mut longest = 0;
    for _ in 0..200 {
        assert_eq!(app.post("/persons", &body).status, 201);
        longest = longest.max(log());
    }
    // 40 MB were written.
    assert!(longest < 16_000_000, "{longest}");
    assert!(fs::metadata(app.database()).unwrap().len() > 20_000_000);
}
