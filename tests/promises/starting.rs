//! A service that cannot start logs one line and exits with code 1.

use std::fs::Permissions;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
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
    let directory = crate::harness::directory();
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
    let directory = crate::harness::directory();
    let root = directory.path().canonicalize().unwrap();
    let missing = root.join("no/such").display().to_string();
    let why =
        format!("no/such/directory.db: the directory {missing} does not exist; create it first: mkdir -p {missing}");
    assert_refuses_to_start(&root.join("no/such/directory.db"), &[], &why);
    let folder = root.join("folder.db");
    std::fs::create_dir(&folder).unwrap();
    let inside = folder.join("duality.db").display().to_string();
    assert_refuses_to_start(&folder, &[], &format!("it is a directory; expected a file, such as {inside}"));
    let file = root.join("file");
    std::fs::write(&file, "").unwrap();
    assert_refuses_to_start(&file.join("test.db"), &[], "/file is not a directory");
}

#[test]
fn a_file_that_is_not_a_database_is_left_unchanged() {
    let directory = crate::harness::directory();
    let file = directory.path().join("notes.txt");
    let text = "not a database\n".repeat(1000);
    std::fs::write(&file, &text).unwrap();
    assert_refuses_to_start(&file, &[], "is not an SQLite database; it was not changed");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
}

#[test]
fn a_database_of_a_newer_version_is_refused() {
    let directory = crate::harness::directory();
    let database = directory.path().join("test.db");
    drop(Process::start(&database, &[]));
    sql(&database, "INSERT INTO __diesel_schema_migrations (version) VALUES ('29991231000000')");
    assert_refuses_to_start(&database, &[], "29991231000000");
}

#[test]
fn parts_of_the_memory_that_do_not_fit_are_refused_with_the_figures() {
    let directory = crate::harness::directory();
    let database = directory.path().join("test.db");
    assert_refuses_to_start(&database, &["--memory", "64MiB", "--shared-bodies", "64MiB"], "--shared-bodies 64.0 MiB");
    assert_refuses_to_start(&database, &["--page-caches", "1MiB"], "--page-caches 1.0 MiB is too little");
    assert!(!database.exists(), "nothing is opened before");
}

/// What a service that cannot listen says.
fn refusal_to_listen(address: &str) -> String {
    let directory = crate::harness::directory();
    let output = Command::new(env!("CARGO_BIN_EXE_duality"))
        .args(["--insecure", "--listen", address, "--database"])
        .arg(directory.path().join("test.db"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "it has opened the database");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn the_error_of_a_taken_port_names_one_that_is_free() {
    // Two neighbours, so that the next port is taken as well.
    let (taken, next) = loop {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let after = taken.local_addr().unwrap().port().saturating_add(1);
        if let Ok(next) = TcpListener::bind(("127.0.0.1", after)) {
            break (taken, next);
        }
    };
    let (address, next) = (taken.local_addr().unwrap(), next.local_addr().unwrap());
    let errors = refusal_to_listen(&address.to_string());
    let begin =
        format!("cannot listen on {address}: another program does; stop that one, or use another port: --listen ");
    let other = errors.split_once(&begin).unwrap_or_else(|| panic!("{errors}")).1.trim();
    let other: SocketAddr = other.parse().unwrap();
    assert!(other.ip() == address.ip() && (other.port() > next.port() || other.port() == 0), "{errors}");
}

#[test]
fn the_error_names_an_address_that_cannot_be_had() {
    for (address, why) in [
        ("192.0.2.1:3000", "cannot listen on 192.0.2.1:3000: this machine does not have the address; use 127.0.0.1"),
        ("nowhere.invalid:3000", "cannot listen on nowhere.invalid:3000: the host is unknown ("),
    ] {
        let errors = refusal_to_listen(address);
        assert!(errors.contains(why), "{errors}");
    }
}

#[test]
fn the_log_of_a_start_names_the_collections_and_the_unusual_settings() {
    let directory = crate::harness::directory();
    let database = directory.path().join("test.db");
    let process = Process::start(&database, &["--retention", "1h", "--host", "shop.example"]);
    let log = process.log();
    for expected in [
        format!("database {} is open: epoch ", database.canonicalize().unwrap().display()),
        "persons: state /persons, feeds /person-events and /events/persons, write /persons/{key}".to_owned(),
        "locations: state /locations, feeds /location-events and /events/locations, derived from persons".to_owned(),
        "carts: state /carts, feeds /cart-events and /events/carts, commands /carts/{key}/{command} (add-item, remove-item, close)"
            .to_owned(),
        "settings that are not the defaults: --retention 1h --host shop.example".to_owned(),
    ] {
        assert_eq!(log.lines().filter(|line| line.contains(&expected)).count(), 1, "{expected} in {log}");
    }
    // Projections begin on threads of their own, and may log before or after it.
    let last = log.lines().rfind(|line| !line.contains(" duality::projector::"));
    let listening = format!("listening on http://{}", process.address);
    assert!(last.is_some_and(|line| line.ends_with(&listening)), "{log}");
    assert!(!log.contains("can read"), "{log}");
    drop(process);
    let log = Process::start(&database, &[]).log();
    assert!(!log.contains("settings that are not"), "{log}");
}

#[test]
fn a_service_that_other_machines_can_reach_names_what_that_means() {
    let directory = crate::harness::directory();
    let everywhere = SocketAddr::from(([0, 0, 0, 0], 0));
    let process = Process::start_on(everywhere, &directory.path().join("test.db"), &["--insecure"]);
    let log = process.log();
    let link = format!("on this machine, open http://localhost:{}", process.address.port());
    for expected in ["whoever reaches this address can read and write everything", &link, "start with --host NAME"] {
        assert!(log.contains(expected), "{expected} in {log}");
    }
}

#[test]
fn a_database_that_every_user_can_read_is_a_warning_with_the_command_that_changes_it() {
    let directory = crate::harness::directory();
    let database = directory.path().canonicalize().unwrap().join("test.db");
    drop(Process::start(&database, &[]));
    let warning = |file: u32, folder: u32| {
        std::fs::set_permissions(&database, Permissions::from_mode(file)).unwrap();
        std::fs::set_permissions(directory.path(), Permissions::from_mode(folder)).unwrap();
        let log = Process::start(&database, &[]).log();
        log.lines().find_map(|line| Some(line.split_once("every user of this machine ")?.1.to_owned()))
    };
    assert_eq!(warning(0o600, 0o755), None);
    assert_eq!(warning(0o640, 0o755), None, "a group is a decision");
    assert_eq!(warning(0o644, 0o700), None, "nobody else can reach it");
    let path = database.display().to_string();
    let expected = format!("can read the database {path} (mode 0644); to keep it to its owner: chmod o-rwx {path}*");
    assert_eq!(warning(0o644, 0o755), Some(expected.clone()));
    let command = expected.split_once("owner: ").unwrap().1.to_owned();
    assert!(Command::new("sh").args(["-c", &command]).status().unwrap().success());
    assert_eq!(database.metadata().unwrap().permissions().mode() & 0o777, 0o640);
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
    let directory = crate::harness::directory();
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
