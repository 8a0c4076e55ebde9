//! How tokens are made, how long they are valid, and what becomes of the file that they are in.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{App, Client, Process, Response, Stream, Token, TokenFile, eventually};

fn get(app: &App, token: &Token, path: &str) -> Response {
    app.request("GET", path, &[("Authorization", &token.bearer()), ("Accept", "application/json")], None)
}

fn follow(app: &App, token: &Token, path: &str) -> Stream {
    app.follow(path, &[("Accept", "text/event-stream"), ("Authorization", &token.bearer())])
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// A pipe in the place of a file. Whoever opens it as one waits for the other end.
fn replace_by_pipe(path: &Path) {
    std::fs::remove_file(path).unwrap();
    assert!(std::process::Command::new("mkfifo").arg("-m600").arg(path).status().unwrap().success());
}

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_token_that_expires_ends_its_streams_and_no_others() {
    let file = TokenFile::new();
    let short = file.add_with("short", &["--scope", "read", "--expires", "1h"]);
    let long = file.add_with("long", &["--scope", "read", "--expires", "2h"]);
    let app = file.serve(|settings| settings.heartbeat = Duration::from_millis(50));
    let paths = ["/events", "/person-events", "/persons/1/events", "/journal"];
    let mut ending: Vec<_> = paths.iter().map(|path| follow(&app, &short, path)).collect();
    let mut going_on = follow(&app, &long, "/events");
    app.turn_clock(i64::try_from(HOUR.as_millis()).unwrap() - 60_000);
    assert_eq!(get(&app, &short, "/persons").status, 200, "a minute before");
    app.turn_clock(120_000);
    get(&app, &short, "/persons").problem(401, "unauthorized");
    for stream in &mut ending {
        while stream.message().is_some() {}
    }
    assert_eq!(get(&app, &long, "/persons").status, 200);
    going_on.read_until(|text| text.matches("\n:").count() > 2);
}

#[test]
fn a_token_ends_without_a_change_of_the_clock() {
    let file = TokenFile::new();
    let short = file.add_with("short", &["--scope", "read", "--expires", "2s"]);
    let app = file.serve(|_| {});
    // Unless this machine is so slow that it has expired already, there is a stream, which ends long before the heartbeat.
    let mut client = app.client();
    client.send("GET", "/events", &[("Authorization", &short.bearer())], None);
    if client.head().unwrap().status == 200 {
        while client.chunk().is_ok_and(|chunk| chunk.is_some()) {}
    }
    get(&app, &short, "/persons").problem(401, "unauthorized");
}

#[test]
fn a_request_that_waits_is_answered_when_its_token_ends() {
    let file = TokenFile::new();
    let reader = file.add("reader", "read");
    let app = file.serve(|_| {});
    let head = get(&app, &reader, "/persons");
    let start = format!("{}.0", head.header("X-Epoch").unwrap());
    let mut attempts = 0;
    for path in ["/events?wait=300", "/person-events?wait=300", "/persons/7/events?wait=300", "/journal?wait=300"] {
        // With this cursor, there is nothing to answer at once.
        let cursor = if path.starts_with("/journal") { start.clone() } else { head.cursor() };
        eventually("the request waited when its token was taken away", || {
            attempts += 1;
            let name = format!("gone-{attempts}");
            let gone = file.add(&name, "read");
            eventually("the token is known", || get(&app, &gone, "/persons").status == 200);
            let bearer = gone.bearer();
            let headers =
                [("Authorization", bearer.as_str()), ("Accept", "application/json"), ("Last-Event-ID", &cursor)];
            let mut client = app.client();
            client.send("GET", path, &headers, None);
            file.revoke(&name);
            let problem = client.response("GET").problem(401, "unauthorized");
            problem["detail"] == "the token is no longer valid"
        });
    }
}

#[test]
fn the_file_is_read_again_when_it_changes_and_streams_of_what_stays_go_on() {
    let file = TokenFile::new();
    let stays = file.add("stays", "read");
    let app = file.serve(|_| {});
    let mut stream = follow(&app, &stays, "/person-events");
    let later = file.add("later", "read,write");
    eventually("the new token is known", || get(&app, &later, "/persons").status == 200);
    let headers = [("Authorization", later.bearer()), ("Content-Type", "application/json".to_owned())];
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    assert_eq!(app.request("POST", "/persons", &headers, Some(br#"{"name":"Ann"}"#)).status, 201);
    stream.read_until(|text| text.contains("Ann"));
    // The same token with other scopes is another one: its streams end, and come back with what it may read now.
    let text = std::fs::read_to_string(&file.path).unwrap();
    let mut json: Value = serde_json::from_str(&text).unwrap();
    json["tokens"][0]["scopes"] = serde_json::json!(["read:carts"]);
    std::fs::write(&file.path, json.to_string()).unwrap();
    while stream.message().is_some() {}
    get(&app, &stays, "/persons").problem(403, "missing-scope");
    assert_eq!(get(&app, &stays, "/carts").status, 200);
}

#[test]
fn a_file_that_cannot_be_used_leaves_the_tokens_of_before_in_force() {
    let file = TokenFile::new();
    let token = file.add("all", "read,write,operate");
    let app = file.serve(|_| {});
    let mut stream = follow(&app, &token, "/events");
    let good = std::fs::read(&file.path).unwrap();
    let reason = || {
        let ready = get(&app, &token, "/readyz");
        assert_eq!(ready.status, 200, "{}", ready.text());
        ready.json()["reasons"][0]["part"] == "tokens"
    };
    let degraded = || get(&app, &token, "/healthz").json()["status"] == "degraded";
    assert!(!reason() && !degraded());
    let broken: [&dyn Fn(); 7] = [
        &|| std::fs::write(&file.path, "").unwrap(),
        &|| std::fs::write(&file.path, "{").unwrap(),
        &|| std::fs::write(&file.path, r#"{"tokens":[{"name":"x"}]}"#).unwrap(),
        &|| std::fs::write(&file.path, r#"{"tokens":[],"more":1}"#).unwrap(),
        &|| set_mode(&file.path, 0o644),
        &|| std::fs::remove_file(&file.path).unwrap(),
        &|| replace_by_pipe(&file.path),
    ];
    for break_it in broken {
        break_it();
        eventually("the service notices", || reason() && degraded());
        assert_eq!(get(&app, &token, "/persons").status, 200);
        // Writing into a pipe would wait.
        let _ = std::fs::remove_file(&file.path);
        std::fs::write(&file.path, &good).unwrap();
        set_mode(&file.path, 0o600);
        eventually("the service notices the good file", || !reason() && !degraded());
    }
    let headers = [("Authorization", token.bearer()), ("Content-Type", "application/json".to_owned())];
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    assert_eq!(app.request("POST", "/persons", &headers, Some(br#"{"name":"Ann"}"#)).status, 201);
    stream.read_until(|text| text.contains("Ann"));
}

#[test]
fn sighup_reads_the_file_again_and_does_not_stop_the_service() {
    let directory = crate::harness::directory();
    let file = TokenFile::new();
    file.add("first", "read");
    let tokens = file.path.to_str().unwrap();
    // It does not poll meanwhile.
    let flags = ["--tokens", tokens, "--poll-interval", "1h"];
    let mut process = Process::start(&directory.path().join("test.db"), &flags);
    let second = file.add("second", "read");
    let get =
        || Client::connect(process.address).request("GET", "/persons", &[("Authorization", &second.bearer())], None);
    get().problem(401, "unauthorized");
    process.signal("HUP");
    eventually("the new token is known", || get().status == 200);
    eventually("it is in the log", || process.log().contains("tokens in force: 2"));
    process.signal("TERM");
    assert!(process.wait().success());
}

#[test]
fn the_file_is_for_its_owner_only() {
    let file = TokenFile::new();
    file.add("reader", "read");
    assert_eq!(mode(&file.path), 0o600);
    let database = file.path.with_file_name("test.db");
    let tokens = file.path.to_str().unwrap();
    for (open, refused) in [(0o644, true), (0o604, true), (0o602, true), (0o660, true), (0o640, false), (0o400, false)]
    {
        set_mode(&file.path, open);
        if !refused {
            Process::start(&database, &["--tokens", tokens]).kill();
            continue;
        }
        let output = Process::output(&database, &["--tokens", tokens]);
        let log = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{log}");
        assert!(log.contains(&format!("(mode {open:04o})")) && log.contains("chmod 600"), "{log}");
        let (code, _, log) = file.run(&["list"]);
        assert!(code == 1 && log.contains("chmod 600"), "{log}");
    }
    set_mode(&file.path, 0o640);
    file.add("other", "read");
    assert_eq!(mode(&file.path), 0o640, "a change keeps the mode");
    // Nothing else is left in the directory.
    let names: Vec<_> =
        std::fs::read_dir(file.path.parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| !name.to_string_lossy().starts_with(".tmp")), "{names:?}");
    set_mode(&file.path, 0o600);
    std::fs::write(&file.path, "").unwrap();
    let directory = file.path.parent().unwrap().to_str().unwrap();
    for (path, expected) in
        [("/nowhere/tokens", "No such file"), (directory, "it is not a file"), (tokens, "it is empty")]
    {
        let output = Process::output(&database, &["--tokens", path]);
        let log = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && log.contains(expected), "{path}: {log}");
    }
    replace_by_pipe(&file.path);
    assert!(Process::output(&database, &["--tokens", tokens]).status.code() == Some(1));
    for task in [&["list"][..], &["new", "x", "--scope", "read"], &["revoke", "reader"]] {
        let (code, out, log) = file.run(task);
        assert!(code == 1 && out.is_empty() && log.contains("it is not a file"), "{task:?}: {log}");
    }
}

#[test]
fn tokens_are_made_listed_and_revoked() {
    let file = TokenFile::new();
    let token = file.add_with("shop", &["--scope", "read:persons, write:carts,operate", "--expires", "90d"]);
    assert!(token.0.starts_with("duality_") && token.0.len() == 72, "{}", token.0);
    file.add_with("long", &["--scope", "read", "--scope", "write", "--expires", "2999-12-31"]);
    file.add("for-ever", "read:carts/a%2Fb");
    let (code, list, _) = file.run(&["list"]);
    let lines: Vec<_> = list.lines().collect();
    assert_eq!((code, lines.len()), (0, 3), "{list}");
    assert!(lines[0].starts_with("shop ") && lines[0].ends_with(" read:persons,write:carts,operate"), "{list}");
    assert!(lines[1].contains("expires 2999-12-31T00:00:00.000Z") && lines[1].ends_with(" read,write"), "{list}");
    assert!(lines[2].contains("does not expire") && lines[2].ends_with(" read:carts/a%2Fb"), "{list}");
    let text = std::fs::read_to_string(&file.path).unwrap();
    assert!(!text.contains(&token.0["duality_".len()..]), "{text}");
    file.revoke("long");
    assert_eq!(file.run(&["list"]).1.lines().count(), 2);
    for (task, expected) in [
        (&["new", "shop", "--scope", "read"][..], "there is a token named shop already"),
        (&["new", "a b", "--scope", "read"], "ASCII letters"),
        (&["new", "", "--scope", "read"], "ASCII letters"),
        (&["new", "x"], "--scope"),
        (&["new", "x", "--scope", ""], "expected read, write or operate"),
        (
            &["new", "x", "--scope", "read:carrots"],
            "unknown collection \"carrots\"; expected persons, locations, carts",
        ),
        (&["new", "x", "--scope", "read,writ"], "\"writ\" is not a scope"),
        (&["new", "x", "--scope", "read", "--expires", "yesterday"], "--expires"),
        (&["new", "x", "--scope", "read", "--expires", "2020-01-01"], "--expires"),
        (&["revoke", "nobody"], "there is no token named nobody"),
    ] {
        let (code, out, log) = file.run(task);
        assert!(code != 0 && out.is_empty() && log.contains(expected), "{task:?}: {code} {out} {log}");
    }
    assert_eq!(file.run(&["list"]).1.lines().count(), 2, "a task that fails changes nothing");
    let missing = TokenFile::new();
    assert!(missing.run(&["list"]).2.contains("cannot be read"));
    assert_eq!(missing.run(&["revoke", "x"]).0, 1);
    assert!(!missing.path.exists());
    let output = Process::output(Path::new("unused.db"), &["token", "list"]);
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(log.contains("--tokens (DUALITY_TOKENS)"), "{log}");
}

#[test]
fn a_token_that_cannot_be_printed_is_not_in_force() {
    let file = TokenFile::new();
    file.add("first", "read");
    let program = std::process::Command::new(env!("CARGO_BIN_EXE_duality"))
        .args(["--tokens", file.path.to_str().unwrap(), "token", "new", "lost", "--scope", "read"])
        .stdout(std::fs::File::options().write(true).open("/dev/full").unwrap())
        .output()
        .unwrap();
    assert!(!program.status.success(), "{}", String::from_utf8_lossy(&program.stderr));
    assert!(String::from_utf8_lossy(&program.stderr).contains("cannot write to standard output"));
    assert_eq!(file.run(&["list"]).1.lines().count(), 1);
}

#[test]
fn tokens_that_are_made_at_the_same_time_are_all_there() {
    let file = TokenFile::new();
    let made = std::thread::scope(|scope| {
        let making: Vec<_> = (0..8)
            .map(|number| {
                scope.spawn({
                    let file = &file;
                    move || file.add(&format!("t{number}"), "read")
                })
            })
            .collect();
        making.into_iter().map(|making| making.join().unwrap()).collect::<Vec<_>>()
    });
    let app = file.serve(|_| {});
    for token in made {
        assert_eq!(get(&app, &token, "/persons").status, 200);
    }
}

/// Paths and queries of all kinds that have a text in them.
fn addresses_with(text: &str) -> [String; 9] {
    [
        format!("/{text}"),
        format!("/nowhere?{text}"),
        format!("/persons?access_token={text}"),
        format!("/persons?{text}=1"),
        format!("/persons/{text}"),
        format!("/carts/{text}/events"),
        format!("/carts?key={text}"),
        format!("/reports/{text}"),
        format!("/person-events?limit={text}"),
    ]
}

#[test]
fn no_secret_is_in_a_log_a_metric_or_an_error() {
    let directory = crate::harness::directory();
    let file = TokenFile::new();
    let token = file.add("operator", "operate,read:persons");
    let wrong = Token(format!("duality_{}", "3".repeat(64)));
    let tokens = file.path.to_str().unwrap().to_owned();
    let mut process = Process::start_in(
        &[("RUST_LOG", "trace")],
        &directory.path().join("test.db"),
        &["--tokens", &tokens, "--poll-interval", "20ms"],
    );
    let send = |method: &str, path: &str, token: &Token| {
        let headers = [("Authorization", token.bearer()), ("Accept", "application/json".to_owned())];
        let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
        Client::connect(process.address).request(method, path, &headers, None)
    };
    let mut seen = String::new();
    for path in ["/persons", "/carts", "/metrics", "/projections", "/nowhere", "/events", "/healthz"] {
        for (token, method) in [(&token, "GET"), (&token, "POST"), (&wrong, "GET"), (&wrong, "POST")] {
            seen += send(method, path, token).text();
        }
    }
    // A token in an address, as it is and percent-encoded.
    for secret in [&token.0, &wrong.0] {
        let digits = &secret["duality_".len()..];
        for written in [secret.clone(), format!("duality%5F{digits}"), format!("%64uality_{digits}")] {
            for path in addresses_with(&written) {
                seen += &format!("{:?}", send("GET", &path, &token));
            }
            let headers = [("Authorization", token.bearer())];
            let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
            let mut stream = Stream::open(process.address, &format!("/person-events?{written}=1"), &headers);
            stream.read_until(|text| text.contains("retry:") && text.contains("ignored"));
            seen += &stream.raw;
        }
    }
    // A token in the place of something else in the file.
    let entry = |name: &str, digest: &str| {
        format!(r#"{{"tokens":[{{"name":"{name}","scopes":["{0}"],"created":"{0}","sha256":"{digest}"}}]}}"#, token.0)
    };
    for text in [entry("x", &token.0), entry(&token.0, "x"), token.0.clone(), format!("{{\"{}\":1}}", token.0)] {
        std::fs::write(&file.path, text).unwrap();
        eventually("the service notices", || send("GET", "/healthz", &token).text().contains("tokens"));
        seen += &file.run(&["list"]).2;
        seen += send("GET", "/healthz", &token).text();
    }
    let arguments = std::fs::read_to_string(format!("/proc/{}/cmdline", process.id())).unwrap_or_default();
    process.signal("TERM");
    process.wait();
    seen += &process.log();
    seen += &arguments;
    for secret in [&token, &wrong] {
        let digits = &secret.0["duality_".len()..];
        let lines: Vec<_> = seen.lines().filter(|line| line.contains(digits)).collect();
        assert!(lines.is_empty(), "a secret is in what others see: {lines:?}");
    }
}
