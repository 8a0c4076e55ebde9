//! On a server, what a service asks for costs as much as what it wants, not as much as there is: seen in the plans of the
//! statements that it really executes.

use std::collections::BTreeSet;
use std::time::Duration;

use duality::aggregates::{Account, Location, Person, ShoppingCart};
use duality::{Service, aggregates};
use serde_json::json;

use crate::harness::engine::{PostgresServer, psql};
use crate::harness::{App, eventually, lines, long_cases, not_tested};

/// Every plan is logged when it has been executed, with the numbers of its rows. It is the one for any values: the server uses
/// that for a statement which it has prepared once it has seen that it is as good.
const OPTIONS: [&str; 16] = [
    "-c",
    "fsync=off",
    "-c",
    "session_preload_libraries=auto_explain",
    "-c",
    "auto_explain.log_min_duration=0",
    "-c",
    "auto_explain.log_analyze=on",
    "-c",
    "auto_explain.log_timing=off",
    "-c",
    "plan_cache_mode=force_generic_plan",
    "-c",
    "autovacuum=off",
    "-c",
    "log_line_prefix=%a|",
];

/// The tables that grow with what is written.
const LARGE: [&str; 6] = ["aggregates", "outbox", "journal", "idempotency", "batches", "erased"];

/// More rows than any step wants: a page reads at most 10,000 revisions or rows.
const MANY: f64 = 30_000.0;

/// What reads one of them at a start, and why it may.
const AT_START: [(&str, &str); 1] = [(
    r#"SELECT "erased"."key" FROM "erased""#,
    "numbers that erased aggregates had are not given again; erasures are few",
)];

/// What reads many entries of an index, without their rows, and why it may.
const IN_AN_INDEX: [(&str, &str); 1] = [(
    r#"SELECT "aggregates"."revision" FROM "aggregates" WHERE ("aggregates"."revision" > $1) ORDER BY"#,
    "whether so many aggregates have changed that a tenth of the events of a catch-up are states of them",
)];

/// A plan that the service has executed.
struct Plan {
    text: String,
}

impl Plan {
    fn is_of_a_start(&self) -> bool {
        AT_START.iter().any(|(statement, _)| self.text.contains(statement))
    }

    fn is_of_an_index(&self) -> bool {
        self.text.contains("Index Only Scan") && IN_AN_INDEX.iter().any(|(statement, _)| self.text.contains(statement))
    }

    fn reads_all_of(&self, table: &str) -> bool {
        self.text.contains(&format!("Seq Scan on {table} "))
            || self.text.contains(&format!("Seq Scan on public.{table} "))
    }

    /// The rows that its largest step has returned, or has read in vain.
    fn rows(&self) -> f64 {
        let number = |line: &str, before: &str| {
            let rest = line.split_once(before)?.1;
            rest.split([' ', ')']).next()?.parse::<f64>().ok()
        };
        let of_line = |line: &str| {
            let read = number(line, "(actual rows=").map(|rows| rows * number(line, " loops=").unwrap_or(1.0));
            read.or_else(|| number(line, "Rows Removed by Filter: ")).unwrap_or(0.0)
        };
        self.text.lines().map(of_line).fold(0.0, f64::max)
    }
}

/// The plans of all statements of the services so far.
fn plans(server: &PostgresServer) -> Vec<Plan> {
    let (log, mut plans) = (server.log(), Vec::<Plan>::new());
    let mut is_open = false;
    for line in log.lines() {
        if line.starts_with('\t') {
            if let Some(plan) = plans.last_mut().filter(|_| is_open) {
                plan.text.push_str(line);
                plan.text.push('\n');
            }
            continue;
        }
        is_open = line.starts_with("duality ") && line.contains("LOG:  duration:") && line.ends_with("plan:");
        if is_open {
            plans.push(Plan { text: String::new() });
        }
    }
    plans
}

/// Fills a database with what many writes have left: persons, carts with ten events each, and answers. The oldest hundredth
/// is a day older than the retention.
fn fill(url: &str, rows: u32) {
    psql(
        url,
        &format!(
            "INSERT INTO aggregates (collection, rank, key, revision, version, body)
             SELECT 'persons', length(i::text), i::text, i, 0, '{{\"name\":\"Ann\"}}' FROM generate_series(1, {rows}) AS i;
             INSERT INTO aggregates (collection, rank, key, revision, version, body, deleted)
             SELECT 'persons', length(i::text), i::text, i, 0, NULL, 0
             FROM generate_series({rows} + 1, {rows} + {rows} / 10) AS i;
             INSERT INTO aggregates (collection, rank, key, revision, version, body)
             SELECT 'carts', 1000, lpad(to_hex(i), 8, '0') || '-0000-4000-8000-000000000000', {rows} + {rows} / 10 + i, 10,
                 '{{\"status\":\"open\",\"items\":{{}}}}'
             FROM generate_series(1, {rows} / 10) AS i;
             INSERT INTO outbox (revision, collection, key, patch, time)
             SELECT i, 'persons', i::text, '{{\"name\":\"Ann\"}}', CASE WHEN i > {rows} / 100 THEN 4102444800000 ELSE 0 END
             FROM generate_series(1, {rows} + {rows} / 5) AS i;
             INSERT INTO journal (position, collection, key, version, kind, schema, body, time)
             SELECT i, 'carts', lpad(to_hex((i + 9) / 10), 8, '0') || '-0000-4000-8000-000000000000', (i - 1) % 10 + 1,
                 CASE (i - 1) % 10 WHEN 0 THEN 'CartOpened' ELSE 'ItemAdded' END, 1,
                 CASE (i - 1) % 10 WHEN 0 THEN '{{}}' ELSE '{{\"item\":\"' || i || '\",\"time\":\"2026-11-22T08:30:00Z\"}}' END, 0
             FROM generate_series(1, {rows}) AS i;
             INSERT INTO idempotency (request, fingerprint, collection, aggregate, time, answer)
             SELECT sha256(i::text::bytea), '\\x00', 'persons', i::text,
                 CASE WHEN i > {rows} / 100 THEN 4102444800000 ELSE 0 END, NULL
             FROM generate_series(1, {rows}) AS i;
             INSERT INTO batches (token, first, last) SELECT sha256(i::text::bytea), i, i FROM generate_series(1, {rows}) AS i;
             INSERT INTO erased (collection, key, revision, stage, reached)
             SELECT 'persons', 'gone ' || i, 1, 'done', 0 FROM generate_series(1, {rows} / 10) AS i;
             UPDATE metadata SET revision = {rows} + {rows} / 5, batches_forgotten = 0;
             UPDATE collections SET next_key = {rows} + {rows} / 10 + 1, changed = {rows} + {rows} / 5 WHERE name = 'persons';
             UPDATE collections SET changed = {rows} + {rows} / 5 WHERE name = 'carts'",
        ),
    );
    psql(url, "VACUUM ANALYZE");
}

const JSON: (&str, &str) = ("Content-Type", "application/json");

/// Everything that a service does besides its start, with one collection of each kind.
fn exercise(app: &App, rows: u32) {
    const CART: &str = "/carts/00000009-0000-4000-8000-000000000000";
    let key = |key: &'static str| [JSON, ("Idempotency-Key", key)];
    let created = app.request("POST", "/persons", &key("\"1\""), Some(br#"{"name":"Bob","city":"Rome"}"#));
    assert_eq!(created.status, 201, "{}", created.text());
    app.request("POST", "/persons", &key("\"1\""), Some(br#"{"name":"Bob","city":"Rome"}"#));
    for _ in 0..3 {
        assert_eq!(app.patch("/persons/7", r#"{"city":"Oslo"}"#).status, 200);
        assert_eq!(app.patch("/persons/7", r#"{"city":"Rome"}"#).status, 200);
        assert_eq!(app.add_item(CART, &format!("item {}", app.get(CART).revision())).status, 200);
    }
    assert_eq!(app.delete("/persons/8").status, 204);
    app.open_cart();
    let pages = |path: &str| {
        let page = app.request("GET", path, &[("Accept", "application/json")], None);
        assert_eq!(page.status, 200, "{path}: {}", page.text());
    };
    let epoch = created.header("X-Epoch").unwrap();
    let end = created.revision();
    for path in [
        "/persons/9",
        CART,
        &format!("{CART}?version=3"),
        &format!("{CART}/journal?after=2"),
        "/locations",
        "/locations?key=Rome&key=Oslo",
        "/accounts",
        &format!("/events?limit=100&wait=0&lastEventId={epoch}.{}", end / 2),
        &format!("/events?limit=100&compact=true&wait=0&lastEventId={epoch}.{}", end / 2),
        "/events?limit=100&compact=true&wait=0",
        &format!("/cart-events?limit=1&wait=0&lastEventId={epoch}.{}", end / 2),
        &format!("/person-events?limit=100&key=9&key=10&wait=0&lastEventId={epoch}.{}", end / 3),
        &format!("/persons/9/events?wait=0&lastEventId={epoch}.{}", end / 2),
        &format!("/journal?limit=100&lastEventId={epoch}.{}", rows / 2),
        &format!("/journal?limit=1&collection=accounts&lastEventId={epoch}.{}", rows / 2),
    ] {
        pages(path);
    }
    let cached = app.get("/locations");
    let tag = [("If-None-Match", cached.header("ETag").unwrap())];
    assert_eq!(app.request("GET", "/locations", &tag, None).status, 304);
    app.patch("/persons/7", r#"{"city":"Paris"}"#);
    pages("/locations");
    app.prune();
    let erased = app.post("/-/erase", &json!({"collection": "carts", "key": &CART["/carts/".len()..]}).to_string());
    // It may take longer than a client waits.
    assert!([200, 202].contains(&erased.status), "{}", erased.text());
    let left = "SELECT count(*) || '' AS line FROM erased WHERE stage <> 'done'";
    eventually("nothing is left of it", || lines(app.database(), left) == ["0"]);
}

/// The rows that each statement on a table has read while `work` ran.
fn rows_of(server: &PostgresServer, table: &str, work: impl FnOnce()) -> Vec<f64> {
    let before = plans(server).len();
    work();
    let plans = plans(server).split_off(before);
    plans.iter().filter(|plan| plan.text.contains(&format!(" on {table}"))).map(Plan::rows).collect()
}

fn without_projections() -> Service {
    let documents = Service::new().document::<Person>().derived::<Location>();
    documents.event_sourced::<ShoppingCart>().event_sourced::<Account>()
}

/// A page does not read what it leaves for the next one, and a whole collection is read in portions.
fn assert_pages_cost_what_they_show(server: &PostgresServer, app: &App, rows: u32) {
    let json = [("Accept", "application/json")];
    for (table, most, path) in [
        // Segments of the log are shared by its readers, and have 128 KiB.
        ("outbox", 5000.0, "/events?limit=10&strict=true&lastEventId="),
        ("aggregates", 200.0, "/events?limit=10&compact=true&lastEventId="),
        ("journal", 200.0, "/journal?limit=10&lastEventId="),
    ] {
        let (document, half) = (app.get("/accounts"), rows / 2);
        let path = format!("{path}{}.{half}", document.header("X-Epoch").unwrap());
        let read = rows_of(server, table, || {
            let page = app.request("GET", &path, &json, None);
            assert!(page.json()["events"].as_array().is_some_and(|events| !events.is_empty()), "{path}");
        });
        assert!(read.iter().sum::<f64>() <= most, "{path}: {read:?}");
    }
    let read = rows_of(server, "aggregates", || {
        assert_eq!(app.get("/carts").json().as_object().map(serde_json::Map::len), usize::try_from(rows / 10).ok());
    });
    assert!(read.iter().all(|rows| *rows <= 1000.0), "{read:?}");
    let portions = usize::try_from(rows / 10 / 1000).unwrap() + 1;
    assert!((portions..portions + 3).contains(&read.len()), "{} statements for {portions} portions", read.len());
}

#[test]
fn no_statement_reads_a_large_table_as_a_whole() {
    if !std::fs::read_dir("/usr/lib/postgresql")
        .is_ok_and(|versions| versions.flatten().any(|version| version.path().join("lib/auto_explain.so").exists()))
    {
        return not_tested("the plans of statements are", "PostgreSQL has no auto_explain");
    }
    let Some(server) = PostgresServer::start_for("the plans of statements are", &OPTIONS) else { return };
    let url = server.new_database();
    // Projections would read, too.
    let mut app = App::serving(without_projections, |settings| {
        settings.database = url.clone().into();
        settings.poll_interval = Duration::from_millis(50);
    });
    app.stop();
    // More than twice as many as are too many, so that half of a table is too much.
    let rows = long_cases(700_000);
    fill(&url, rows);
    let before = plans(&server).len();
    app.resume();
    assert_pages_cost_what_they_show(&server, &app, rows);
    app.stop();
    app.resume_serving(aggregates::shipped);
    exercise(&app, rows);
    app.stop();
    let plans = plans(&server).split_off(before);
    let texts: BTreeSet<_> = plans.iter().map(|plan| &plan.text).collect();
    assert!(texts.len() > 50, "only {} statements are seen", texts.len());
    for table in LARGE {
        assert!(plans.iter().any(|plan| plan.text.contains(&format!("on {table}"))), "{table} is not used");
    }
    let is_long = |plan: &&Plan| LARGE.iter().any(|table| plan.reads_all_of(table)) || plan.rows() >= MANY;
    let long = plans.iter().filter(|plan| !plan.is_of_a_start() && !plan.is_of_an_index()).filter(is_long);
    let long: BTreeSet<_> = long.map(|plan| plan.text.as_str()).collect();
    assert!(long.is_empty(), "{}", long.into_iter().collect::<Vec<_>>().join("\n"));
}
