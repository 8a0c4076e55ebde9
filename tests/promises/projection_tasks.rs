//! How operators manage projections, from the command line and over HTTP.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::harness::{App, Client, Process, SmallDisk, eventually, files_of, lines, make_older, output_of, sql};

/// Runs `duality projection`, and returns its exit code and output.
fn projection(database: &Path, task: &[&str]) -> (i32, String) {
    output_of(database, &[&["projection"], task].concat())
}

/// A service with some carts, whose projections are up to date.
fn filled() -> App {
    let app = App::start();
    for item in ["apple", "pear", "apple"] {
        let cart = app.open_cart();
        assert_eq!(app.add_item(&cart, item).status, 200);
        assert_eq!(app.command(&format!("{cart}/close")).status, 200);
    }
    app.post("/persons", r#"{"name":"Ann","city":"Rome"}"#);
    for (name, at) in [("cart_items", 9), ("carts.csv", 9), ("city_history", 1)] {
        eventually("it is up to date", || status(app.address, name)["at"] == at);
    }
    app
}

fn status(address: SocketAddr, name: &str) -> Value {
    Client::connect(address).request("GET", &format!("/projections/{name}"), &[], None).json()
}

/// The bodies of all reports.
fn everything(address: SocketAddr) -> [String; 4] {
    ["cart-items?limit=1000", "popular-items?limit=1000", "city-history?limit=1000", "carts.csv"].map(|report| {
        Client::connect(address).request("GET", &format!("/reports/{report}"), &[], None).text().to_owned()
    })
}

fn manifest(database: &Path, name: &str) -> Value {
    let file = PathBuf::from(format!("{}.projections/{name}.json", files_of(database).display()));
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

#[test]
fn projections_can_be_listed_with_and_without_a_running_service() {
    let mut app = filled();
    for _ in 0..2 {
        let (code, said) = projection(app.database(), &["list"]);
        assert_eq!((code, said.lines().count()), (0, 3), "{said}");
        for (line, name) in said.lines().zip(["cart_items", "carts.csv", "city_history"]) {
            let words: Vec<_> = line.split_whitespace().collect();
            let expected = [name, "version", "1", "background", "live", "0", "events,", "0", "s", "behind"];
            assert_eq!(words, expected);
        }
        app.stop();
    }
}

/// Every file in a directory and in those below it, with its content.
fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let of = |path: PathBuf| {
        if path.is_dir() { files(&path) } else { [(path.clone(), std::fs::read(path).unwrap())].into() }
    };
    entries.flat_map(of).collect()
}

#[test]
fn the_list_without_a_service_changes_nothing_and_shows_what_is_not_applied_yet() {
    let mut app = filled();
    app.stop();
    sql(app.database(), "UPDATE metadata SET revision = revision + 3");
    sql(
        app.database(),
        r#"INSERT INTO outbox (revision, collection, key, patch, time) VALUES (13, 'locations', 'Oslo', '{"total":1}', 0)"#,
    );
    let before = files(app.files().parent().unwrap());
    let (code, said) = projection(app.database(), &["list"]);
    assert_eq!(files(app.files().parent().unwrap()), before);
    let lags: Vec<_> = said.lines().map(|line| line.split_whitespace().nth(5).unwrap()).collect();
    assert_eq!((code, lags), (0, vec!["0", "0", "1"]), "{said}");
    std::fs::remove_dir_all(format!("{}.projections", app.files().display())).unwrap();
    let (code, said) = projection(app.database(), &["list"]);
    assert!(code == 0 && said.lines().all(|line| line.contains("building")), "{said}");
    assert!(!Path::new(&format!("{}.projections", app.files().display())).exists());
    make_older(app.database());
    let (code, said) = projection(app.database(), &["list"]);
    assert!(code == 1 && said.contains("another version of this program ("), "{said}");
}

#[test]
fn projections_of_a_copy_on_a_read_only_disk_can_be_listed() {
    let Some(disk) = SmallDisk::mount(4) else { return };
    let mut app = filled();
    app.stop();
    let database = disk.path().join("test.db");
    std::fs::copy(app.database(), &database).unwrap();
    disk.forbid_writing();
    let (code, said) = projection(&database, &["list"]);
    assert_eq!((code, said.lines().count()), (0, 3), "{said}");
}

#[test]
fn only_the_user_of_the_service_can_open_its_socket_and_stopping_removes_it() {
    use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
    let mut app = filled();
    let socket = PathBuf::from(format!("{}.sock", app.files().display()));
    let metadata = std::fs::metadata(&socket).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    app.stop();
    assert!(!socket.exists());
}

#[test]
fn a_killed_service_does_not_leave_a_socket_in_the_way() {
    let directory = crate::harness::directory();
    let database = directory.path().join("killed.db");
    let socket = directory.path().join("killed.db.sock");
    Process::start(&database, &[]).kill();
    assert!(socket.exists(), "a kill leaves the socket behind");
    let (code, said) = projection(&database, &["list"]);
    assert_eq!((code, said.lines().count()), (0, 3), "{said}");
    let _process = Process::start(&database, &[]);
    let (code, said) = projection(&database, &["list"]);
    assert_eq!((code, said.lines().count()), (0, 3), "{said}");
}

#[test]
fn the_command_line_reaches_a_service_whose_path_is_longer_than_a_socket_address() {
    let directory = crate::harness::directory();
    let deep = directory.path().join("a".repeat(100)).join("b".repeat(100));
    std::fs::create_dir_all(&deep).unwrap();
    let database = deep.join("test.db");
    let process = Process::start(&database, &[]);
    let (code, said) = projection(&database, &["list"]);
    assert_eq!((code, said.lines().count()), (0, 3), "{said}");
    assert!(!process.log().contains("cannot reach"), "{}", process.log());
}

#[test]
fn projections_can_be_rebuilt_with_and_without_a_running_service() {
    let mut app = filled();
    let before = everything(app.address);
    for (generation, name) in [(2, "cart_items"), (2, "carts.csv"), (2, "city_history")] {
        let (code, said) = projection(app.database(), &["rebuild", name]);
        assert_eq!(code, 0, "{said}");
        assert!(said.contains("100%") || said.contains("live"), "{said}");
        assert_eq!(
            status(app.address, name)["generation"],
            generation,
            "the new generation is in use when the command exits"
        );
    }
    assert_eq!(everything(app.address), before);
    app.stop();
    for name in ["cart_items", "carts.csv", "city_history"] {
        let (code, said) = projection(app.database(), &["rebuild", name]);
        assert_eq!(code, 0, "{said}");
        let expected = json!({
            "current": 3,
            "previous": 2,
            "building": null,
            "building_from": null,
            "is_erasing": false,
            "is_stained": false,
            "is_building_stained": false,
            "last": 3,
            "skipped": []
        });
        assert_eq!(manifest(app.database(), name), expected);
    }
    app.resume();
    eventually("it is running", || status(app.address, "city_history")["generation"] == 3);
    eventually("the reports are unchanged", || everything(app.address) == before);
}

#[test]
fn an_impossible_task_fails_with_a_message_and_an_exit_code() {
    let mut app = filled();
    let names = "cart_items, carts.csv, city_history";
    for (task, why) in [
        (&["rebuild", "nonsense"][..], format!("there is no projection \"nonsense\"; expected one of {names}")),
        (&["skip", "nonsense", "1"], format!("there is no projection \"nonsense\"; expected one of {names}")),
        (&["skip", "cart_items", "1"], "cart_items has not stopped at an event".to_owned()),
    ] {
        let (code, said) = projection(app.database(), task);
        assert!(code == 1 && said.contains(&why), "{task:?}: {code} {said}");
    }
    app.stop();
    for (task, why) in [
        (&["rebuild", "nonsense"][..], "there is no projection \"nonsense\"; expected one of cart_items, "),
        (&["skip", "cart_items", "1"], "no service is running, so no projection has stopped at an event"),
    ] {
        let (code, said) = projection(app.database(), task);
        assert!(code == 1 && said.contains(why), "{task:?}: {code} {said}");
    }
    for task in [&["skip", "cart_items", "x"][..], &["rebuild"], &["nonsense"], &[]] {
        assert_eq!(projection(app.database(), task).0, 2, "{task:?}");
    }
    let missing = app.files().with_file_name("missing.db");
    let (code, said) = projection(&missing, &["list"]);
    assert!(code == 1 && said.contains("there is no database") && !missing.exists(), "{code} {said}");
}

#[test]
fn a_failed_rebuild_exits_with_the_cause() {
    let mut app = filled();
    app.stop();
    sql(app.database(), "UPDATE journal SET kind = 'ItemStolen' WHERE position = 2");
    let (code, said) = projection(app.database(), &["rebuild", "cart_items"]);
    assert!(code == 1 && said.contains("stopped at 2") && said.contains("ItemStolen"), "{said}");
    app.resume();
    eventually("it fails", || status(app.address, "cart_items")["state"] == "failing");
    assert_eq!(app.get("/reports/popular-items").status, 200, "the old generation is still served");
    let (code, said) = projection(app.database(), &["rebuild", "carts.csv"]);
    assert!(code == 1 && said.contains("stopped at 2") && said.contains("ItemStolen"), "{said}");
    let (code, said) = projection(app.database(), &["skip", "carts.csv", "2"]);
    assert_eq!(code, 0, "{said}");
    eventually("it is built", || status(app.address, "carts.csv")["state"] == "live");
    assert_eq!(status(app.address, "carts.csv")["generation"], 2);
}

#[test]
fn a_projection_with_broken_tables_can_be_rebuilt() {
    let mut app = filled();
    let tables =
        |generation: u32| PathBuf::from(format!("{}.projections/cart_items.{generation}.db", app.files().display()));
    let (first, second, third) = (tables(1), tables(2), tables(3));
    for (broken, stopped) in [(first, false), (second, true)] {
        sql(&broken, "DROP TABLE cart_items");
        let cart = app.open_cart();
        assert_eq!(app.add_item(&cart, "apple").status, 200);
        eventually("it fails", || status(app.address, "cart_items")["state"] == "failing");
        if stopped {
            app.stop();
        }
        let (code, said) = projection(app.database(), &["rebuild", "cart_items"]);
        assert_eq!(code, 0, "{said}");
    }
    app.resume();
    eventually("it is running", || status(app.address, "cart_items")["generation"] == 3);
    assert_eq!(app.get("/reports/popular-items").json()["items"][0]["carts"], 4);
    app.stop();
    // A missing file must not look like an empty table.
    std::fs::remove_file(third).unwrap();
    app.resume();
    eventually("it is built", || {
        let answer = app.get("/reports/popular-items");
        assert!(answer.status == 503 || answer.json()["items"][0]["carts"] == 4, "{}", answer.text());
        answer.status == 200
    });
    assert_eq!(status(app.address, "cart_items")["generation"], 4);
}

/// Copies the only cart, with its events, so often that a rebuild takes a while. The change events are pruned.
fn multiply(database: &Path, carts: u32) {
    let known = lines(database, "SELECT group_concat(name, ',') AS line FROM pragma_table_info('journal')");
    assert_eq!(known.len(), 1);
    let named: Vec<_> = known[0].split(',').filter(|name| !["position", "key"].contains(name)).collect();
    let named = named.join(", ");
    sql(
        database,
        &format!(
            "BEGIN; \
             CREATE TEMP TABLE kinds AS SELECT * FROM journal; \
             WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < {carts}) \
             INSERT INTO journal (position, key, {named}) \
             SELECT (SELECT count(*) FROM kinds) * n + position, \
                    printf('00000000-0000-4000-9000-%012d', n), {named} FROM number, kinds ORDER BY 1; \
             CREATE TEMP TABLE rows AS SELECT * FROM aggregates; \
             WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < {carts}) \
             INSERT INTO aggregates (collection, rank, key, revision, version, body) \
             SELECT collection, rank, printf('00000000-0000-4000-9000-%012d', n), revision, version, body \
             FROM number, rows; \
             DELETE FROM outbox; \
             UPDATE metadata SET pruned = revision; \
             COMMIT"
        ),
    );
}

#[test]
fn a_killed_rebuild_continues_at_the_next_start() {
    let directory = crate::harness::directory();
    let database = directory.path().join("killed.db");
    let mut process = Process::start(&database, &[]);
    let mut client = Client::connect(process.address);
    let json = [("Content-Type", "application/json")];
    let cart = client.request("POST", "/carts", &json, Some(b"{}")).header("Location").unwrap().to_owned();
    client.request("POST", &format!("{cart}/add-item"), &json, Some(br#"{"item":"apple"}"#));
    client.request("POST", &format!("{cart}/close"), &json, Some(b"{}"));
    process.signal("TERM");
    assert!(process.wait().success());
    multiply(&database, 10_000);
    let events = 30_003;
    let process = Process::start(&database, &[]);
    let address = process.address;
    for name in ["cart_items", "carts.csv"] {
        eventually("it is up to date", || status(address, name)["at"] == events);
    }
    let before = everything(address);
    let mut interrupted = 0;
    for name in ["cart_items", "carts.csv"] {
        assert_eq!(
            Client::connect(address).request("POST", &format!("/projections/{name}/rebuild"), &[], None).status,
            202
        );
    }
    eventually("the rebuild is in progress", || {
        let building = &status(address, "carts.csv")["building"];
        building["done"].as_i64() > Some(0) || building.is_null()
    });
    process.kill();
    for name in ["cart_items", "carts.csv"] {
        interrupted += usize::from(manifest(&database, name)["building"] == 2);
    }
    assert!(interrupted > 0, "the kill interrupted a rebuild");

    let process = Process::start(&database, &[]);
    let address = process.address;
    for name in ["cart_items", "carts.csv"] {
        eventually("it is built", || status(address, name)["generation"] == 2);
        eventually("it is up to date", || status(address, name)["at"] == events);
    }
    assert_eq!(everything(address), before);
    assert_eq!(before[3].lines().count(), 1 + 10_001);
    let (code, said) = output_of(&database, &["verify"]);
    assert_eq!(code, 0, "{said}");
}

#[test]
fn projection_and_report_routes_reject_unknown_names_methods_and_bodies() {
    let app = filled();
    let (projections, reports) = (
        json!(["cart_items", "carts.csv", "city_history"]),
        json!(["cart-items", "carts.csv", "city-history", "popular-items"]),
    );
    assert_eq!(app.get("/projections/nonsense").problem(404, "no-such-path")["expected"], projections);
    for verb in ["rebuild", "skip"] {
        let answer = app.post(&format!("/projections/nonsense/{verb}"), r#"{"at":1}"#);
        assert_eq!(answer.problem(404, "no-such-path")["expected"], projections);
        let answer = app.get(&format!("/projections/cart_items/{verb}"));
        assert_eq!((answer.status, answer.header("Allow")), (405, Some("POST, OPTIONS")));
    }
    assert_eq!(app.get("/reports/nonsense").problem(404, "no-such-path")["expected"], reports);
    for path in
        ["/projections", "/projections/cart_items", "/reports/cart-items", "/reports/carts.csv", "/healthz", "/metrics"]
    {
        let answer = app.post(path, "{}");
        assert_eq!((answer.status, answer.header("Allow")), (405, Some("GET, HEAD, OPTIONS")), "{path}");
        let head = app.request("HEAD", path, &[], None);
        let get = app.get(path);
        assert_eq!((head.status, get.status, head.body.len()), (200, 200, 0), "{path}");
        assert_eq!(head.header("Content-Type"), get.header("Content-Type"), "{path}");
        assert_eq!(head.header("Cache-Control"), get.header("Cache-Control"), "{path}");
    }
    for body in ["{}", r#"{"at":"1"}"#, r#"{"at":1.5}"#, r#"{"at":null}"#] {
        let problem = app.post("/projections/cart_items/skip", body);
        assert_eq!(problem.problem(422, "invalid")["member"], "at", "{body}");
    }
    app.post("/projections/cart_items/skip", "[").problem(400, "malformed-json");
    let health = app.get("/healthz").json();
    assert_eq!((&health["status"], &health["position"], &health["revision"]), (&json!("ok"), &json!(9), &json!(10)));
    assert_eq!(app.get("/reports/carts.csv").header("Content-Type"), Some("text/csv; charset=utf-8; header=present"));
    let other = app.request("GET", "/reports/carts.csv", &[("Accept", "application/json")], None);
    assert_eq!(other.status, 406);
}

#[test]
fn metrics_are_in_the_text_format_of_prometheus() {
    let app = filled();
    let metrics = app.get("/metrics");
    let open_metrics = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(metrics.header("Content-Type"), Some(open_metrics));
    let text = metrics.text();
    for name in ["lag_events", "lag_seconds", "failing", "building"] {
        assert!(text.contains(&format!("# TYPE duality_projection_{name} gauge\n")), "{text}");
        for projection in ["cart_items", "carts.csv", "city_history"] {
            let line = format!("duality_projection_{name}{{projection=\"{projection}\"}} 0\n");
            assert!(text.contains(&line), "{text}");
        }
    }
    assert!(text.contains("# HELP duality_projection_failing 1 while the projection is failing.\n"), "{text}");
    assert!(text.ends_with("# EOF\n"), "{text}");
}

#[test]
fn an_invalid_report_query_is_rejected_with_the_parameter() {
    let app = filled();
    for (query, parameter) in [
        ("cart-items?limit=0", "limit"),
        ("cart-items?limit=1001", "limit"),
        ("cart-items?limit=x", "limit"),
        ("cart-items?status=gone", "status"),
        ("cart-items?after=x", "after"),
        ("cart-items?nonsense=1", "nonsense"),
        ("popular-items?limit=-1", "limit"),
        ("popular-items?item=apple", "item"),
        ("city-history?after=x/Rome", "after"),
        ("city-history?after=1", "after"),
        ("carts.csv?limit=1", "limit"),
    ] {
        let problem = app.get(&format!("/reports/{query}")).problem(400, "malformed-request");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.starts_with(&format!("{parameter}: ")), "{query}: {detail}");
    }
    let number = |query: &str, rows: &str| app.get(&format!("/reports/{query}")).json()[rows].as_array().unwrap().len();
    assert_eq!(number("cart-items?item=apple", "items"), 2);
    assert_eq!(number("cart-items?item=apple&status=removed", "items"), 0);
    assert_eq!(number("cart-items?status=in-cart&limit=", "items"), 3);
    assert_eq!(number("city-history?city=Rome", "changes"), 1);
    assert_eq!(number("city-history?city=Oslo", "changes"), 0);
    let popular = json!({"items": [{"item": "apple", "carts": 2}]});
    assert_eq!(app.get("/reports/popular-items?limit=1").json(), popular);
}
