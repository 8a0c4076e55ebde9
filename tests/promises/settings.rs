//! Settings are checked before anything is opened, and errors say what to do.

use std::path::Path;

use duality::aggregates::shipped;
use duality::{Settings, StartError};

use crate::harness::{App, Client, Process, eventually};

/// What a service that must not start prints, and that it has opened nothing.
#[track_caller]
fn refusal(environment: &[(&str, &str)], flags: &[&str]) -> String {
    let directory = crate::harness::directory();
    let output = Process::output_in(environment, &directory.path().join("test.db"), flags);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && !errors.contains("panicked"), "{errors}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "it has opened the database");
    errors
}

#[test]
fn a_setting_out_of_its_range_is_refused_in_one_line_before_anything_is_opened() {
    for (flag, value, range) in [
        ("--workers", "513", "a whole number from 1 to 512"),
        ("--readers", "100000", "a whole number from 1 to 256"),
        ("--poll-interval", "1ns", "a duration from 10ms to 1h"),
        ("--retention", "292277026596y", "a duration from 0s to 36500d"),
        ("--max-body", "0", "a size from 64B to 1GiB"),
        ("--session-buffer", "18446744073709551615", "a size from 4KiB to 1GiB"),
        ("--max-sessions", "18446744073709551615", "a whole number from 1 to 1000000"),
    ] {
        let errors = refusal(&[], &[flag, value]);
        let lines: Vec<_> = errors.lines().filter(|line| line.contains(flag)).collect();
        assert_eq!(lines.len(), 1, "{errors}");
        assert!(lines[0].contains(&format!("expected {range}, got ")), "{errors}");
    }
}

#[test]
fn a_value_that_cannot_be_read_is_refused_with_its_range_and_where_it_is_from() {
    for (environment, flags, expected) in [
        (&[][..], &["--workers", "0"][..], "--workers: expected a whole number from 1 to 512, got \"0\""),
        (&[], &["--poll-interval", "5"], "--poll-interval: expected a duration from 10ms to 1h, got \"5\""),
        (&[("DUALITY_WORKERS", "many")], &[], "DUALITY_WORKERS: expected a whole number from 1 to 512, got \"many\""),
        (&[("DUALITY_MAX_BODY", "1XB")], &[], "DUALITY_MAX_BODY: expected a size from 64B to 1GiB, got \"1XB\""),
        (&[("DUALITY_HOST", "a.example,b:c")], &[], "DUALITY_HOST: expected a host name such as shop.example, or * ("),
        (&[("DUALITY_NO_COPY", "perhaps")], &[], "DUALITY_NO_COPY: expected true or false, got \"perhaps\""),
        (
            &[("DUALITY_READERS", "257")],
            &[],
            "--readers (DUALITY_READERS): expected a whole number from 1 to 256, got \"257\"",
        ),
    ] {
        let errors = refusal(environment, flags);
        assert!(errors.contains(expected), "{expected} in {errors}");
    }
}

#[test]
fn an_origin_that_no_browser_sends_is_refused() {
    for origin in ["http://", "app.example", "https://app.example/", "https://App.example", "https://app.example:443"] {
        let errors = refusal(&[], &["--cors-origin", origin]);
        assert!(errors.contains("expected an origin such as https://app.example"), "{errors}");
    }
}

#[test]
fn null_is_an_origin_that_can_be_allowed() {
    let app = App::with(|settings| settings.cors_origin = vec!["null".to_owned()]);
    let allowed = |origin| {
        let response = app.request("GET", "/persons", &[("Origin", origin)], None);
        response.header("Access-Control-Allow-Origin").map(str::to_owned)
    };
    assert_eq!(allowed("null").as_deref(), Some("null"));
    assert_eq!(allowed("https://elsewhere.example"), None);
}

#[test]
fn a_program_that_sets_the_settings_itself_gets_the_same_errors() {
    actix::System::new().block_on(async {
        for open in [true, false] {
            let mut settings = Settings::default();
            settings.workers = Some(crate::harness::count(513));
            settings.database = Path::new("/nowhere/at/all.db").to_owned();
            let started = if open { shipped().open(settings) } else { shipped().start(settings).await };
            let Err(error @ StartError::Setting(_)) = started else { panic!("it starts") };
            assert_eq!(
                error.to_string(),
                "--workers (DUALITY_WORKERS): expected a whole number from 1 to 512, got \"513\""
            );
        }
    });
}

#[test]
fn an_empty_variable_is_one_that_is_not_set() {
    let directory = crate::harness::directory();
    let empty = ["DUALITY_WORKERS", "DUALITY_RETENTION", "DUALITY_CORS_ORIGIN", "DUALITY_NO_COPY", "DUALITY_MAX_BODY"];
    let process = Process::start_in(&empty.map(|name| (name, "")), &directory.path().join("test.db"), &[]);
    let response = Client::connect(process.address).request("GET", "/persons", &[("Origin", "http://a.example")], None);
    assert_eq!((response.status, response.header("Access-Control-Allow-Origin")), (200, None));
}

#[test]
fn a_switch_takes_every_usual_form_of_yes_and_no() {
    for value in ["1", "0", "yes", "no", "true", "false"] {
        let directory = crate::harness::directory();
        Process::start_in(&[("DUALITY_NO_COPY", value)], &directory.path().join("test.db"), &[]);
    }
}

#[test]
fn an_unknown_variable_is_a_warning_with_the_nearest_name() {
    let directory = crate::harness::directory();
    let environment = [("DUALITY_LISTNE", "127.0.0.1:3000"), ("DUALITY_PORT", "tcp://10.0.0.1:80")];
    let process = Process::start_in(&environment, &directory.path().join("test.db"), &[]);
    let log = process.log();
    let warnings: Vec<_> = log.lines().filter(|line| line.contains("is no setting")).collect();
    assert_eq!(warnings.len(), 2, "{log}");
    assert!(warnings[0].contains("DUALITY_LISTNE in the environment is no setting; did you mean DUALITY_LISTEN?"));
}

#[test]
fn a_log_filter_that_is_a_typing_error_silences_nothing() {
    let directory = crate::harness::directory();
    // That it starts shows that its address is in the log.
    let process = Process::start_in(&[("RUST_LOG", "nonsense")], &directory.path().join("test.db"), &[]);
    assert!(process.log().contains("RUST_LOG: \"nonsense\" is not a level"), "{}", process.log());
}

#[test]
fn a_hangup_stops_a_service_in_order_unless_nohup_has_started_it() {
    let directory = crate::harness::directory();
    // These tests may run under nohup themselves.
    let default = ["env", "--default-signal=HUP"];
    let mut process = Process::start_by(&default, &directory.path().join("one.db"), &[]);
    process.signal("HUP");
    assert!(process.wait().success());
    eventually("its last lines are read", || process.log().contains("SIGHUP: stopping"));

    let process = Process::start_by(&["nohup"], &directory.path().join("other.db"), &[]);
    process.signal("HUP");
    let response = Client::connect(process.address).request("GET", "/persons", &[], None);
    assert_eq!(response.status, 200);
}
