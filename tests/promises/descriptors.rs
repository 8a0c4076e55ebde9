//! The limit of file descriptors: raised as far as the system allows, and never used up by streams.

use crate::harness::{Client, Process};

/// Starts a service in a shell that has set a limit.
fn start(ulimit: &str, directory: &std::path::Path) -> Process {
    start_with(ulimit, directory, "1")
}

fn start_with(ulimit: &str, directory: &std::path::Path, workers: &str) -> Process {
    Process::start_by(&["sh", "-c", &limited(ulimit)], &directory.join("test.db"), &["--workers", workers])
}

/// What a shell does to start a program with a limit.
fn limited(ulimit: &str) -> String {
    format!("ulimit {ulimit} && exec \"$0\" \"$@\"")
}

fn write(process: &Process) -> u16 {
    let json = [("Content-Type", "application/json")];
    Client::connect(process.address).request("POST", "/persons", &json, Some(br#"{"name":"Ann"}"#)).status
}

/// Opens a stream, and returns whether its head says that it is one.
fn follow(process: &Process) -> (Client, bool) {
    let mut client = Client::connect(process.address);
    client.send("GET", "/person-events", &[("Accept", "text/event-stream")], None);
    let is_stream = client.head().is_ok_and(|head| head.header("X-Revision").is_some());
    (client, is_stream)
}

#[test]
fn the_soft_limit_of_descriptors_is_raised_to_the_hard_one() {
    let directory = crate::harness::directory();
    let process = start("-Sn 128", directory.path());
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", process.id())).unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let numbers: Vec<_> = files.split_whitespace().skip(3).take(2).collect();
    assert_eq!(numbers[0], numbers[1], "{files}");
    let streams: Vec<_> = (0..150).map(|_| follow(&process)).collect();
    assert!(streams.iter().all(|(_, is_stream)| *is_stream));
    assert_eq!(write(&process), 201);
}

#[test]
fn with_few_descriptors_streams_are_limited_and_others_are_answered() {
    let directory = crate::harness::directory();
    let process = start("-n 128", directory.path());
    let log = process.log();
    assert!(log.contains("the system allows 128 file descriptors, which is enough for "), "{log}");
    let (_first, is_stream) = follow(&process);
    assert!(is_stream);
    // Each gets an answer: those beyond the limit get a time for the next attempt, and are cut.
    let mut streams: Vec<_> = (0..100).map(|_| follow(&process).0).collect();
    assert_eq!(write(&process), 201);
    streams.push(follow(&process).0);
    assert_eq!(write(&process), 201);
    assert!(process.open_files() < 128, "{}", process.open_files());
}

#[test]
fn a_refused_stream_does_not_keep_its_connection() {
    for headers in [&[][..], &[("Accept", "*/*")]] {
        let directory = crate::harness::directory();
        let process = start("-n 128", directory.path());
        let open = |_| {
            let mut client = Client::connect(process.address);
            client.send("GET", "/events", headers, None);
            let head = client.head().unwrap();
            (client, head)
        };
        let (streams, refused): (Vec<_>, Vec<_>) = (0..100).map(open).partition(|(_, head)| head.status == 200);
        assert!(!streams.is_empty() && refused.len() > 40, "{}", refused.len());
        for (mut client, head) in refused {
            assert_eq!((head.status, head.header("Connection")), (503, Some("close")));
            client.rest(head).problem(503, "busy");
            assert!(client.head().is_err_and(|error| error.kind() == std::io::ErrorKind::UnexpectedEof));
        }
        assert_eq!(write(&process), 201);
    }
}

#[test]
fn many_threads_leave_descriptors_for_every_connection_that_is_accepted() {
    let directory = crate::harness::directory();
    let process = start_with("-n 1024", directory.path(), "128");
    let _streams: Vec<_> = (0..700).map(|_| follow(&process).0).collect();
    assert_eq!(write(&process), 201);
    assert!(process.open_files() < 1024, "{}", process.open_files());
    assert!(!process.log().contains("Too many open files"), "{}", process.log());
}

#[test]
fn too_few_descriptors_for_the_threads_are_refused_in_one_line_with_the_number_needed() {
    let directory = crate::harness::directory();
    let output = std::process::Command::new("sh")
        .args(["-c", &limited("-n 256"), env!("CARGO_BIN_EXE_duality"), "--listen", "127.0.0.1:0", "--workers", "64"])
        .arg("--database")
        .arg(directory.path().join("test.db"))
        .output()
        .unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    let lines: Vec<_> = errors.lines().filter(|line| line.contains("ERROR")).collect();
    assert!(
        matches!(lines[..], [line] if line.contains("allows 256 file descriptors, and with --workers 64 at least "))
    );
    assert!(!errors.contains("panicked"), "{errors}");
}
