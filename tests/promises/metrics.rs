//! Metrics count what happens; the documents, the dashboard and the alert rules name metrics that exist.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::harness::{App, count, eventually, lines, sql};

/// The value of a sample, with its labels as `/metrics` writes them.
#[track_caller]
fn value(app: &App, sample: &str) -> f64 {
    let metrics = app.get("/metrics");
    let line = metrics.text().lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{sample} is not in {}", metrics.text())).parse().unwrap()
}

/// The labels of each sample name of a service that has done something of everything.
fn exposed() -> BTreeMap<String, BTreeSet<String>> {
    let app = App::with(|settings| settings.publish = vec!["nats://127.0.0.1:9".into()]);
    app.post("/persons", r#"{"name":"Ann"}"#);
    eventually("the projections are known", || app.get("/metrics").text().contains("duality_projection_lag_events{"));
    let mut exposed: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in app.get("/metrics").text().lines().filter(|line| !line.starts_with('#')) {
        let (sample, _) = line.rsplit_once(' ').unwrap();
        let (name, labels) = sample.split_once('{').unwrap_or((sample, ""));
        let labels = labels.split("\",").filter_map(|label| label.split_once('=')).map(|(label, _)| label.to_owned());
        exposed.entry(name.to_owned()).or_default().extend(labels);
    }
    exposed
}

/// The name of a metric, without what a histogram adds to it.
fn family(sample: &str) -> &str {
    ["_bucket", "_sum", "_count"].iter().find_map(|suffix| sample.strip_suffix(suffix)).unwrap_or(sample)
}

fn document(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name)).unwrap()
}

#[test]
fn metrics_count_what_happens() {
    let app = App::start();
    for _ in 0..3 {
        assert_eq!(app.post("/persons", r#"{"name":"Ann"}"#).status, 201);
    }
    assert_eq!(app.command("/carts/0193a5e0-0000-7000-8000-000000000001/close").status, 404);
    for (sample, expected) in [
        ("duality_commits_total", 4.0),
        ("duality_batch_commands_sum", 4.0),
        ("duality_batch_commands_bucket{le=\"1.0\"}", 4.0),
        ("duality_batch_commands_bucket{le=\"+Inf\"}", 4.0),
        ("duality_commit_duration_seconds_count", 4.0),
        ("duality_rejected_commands_total", 1.0),
        ("duality_failed_commits_total{outcome=\"not-done\"}", 0.0),
        ("duality_waiting_commands", 0.0),
        ("duality_waiting_command_bytes", 0.0),
        ("duality_revision", 3.0),
        ("duality_outbox_revisions", 3.0),
        ("duality_ready", 1.0),
        ("duality_health{part=\"writer\"}", 1.0),
        ("duality_requests_total{route=\"/persons\",method=\"POST\",status=\"201\"}", 3.0),
        ("duality_requests_total{route=\"/carts/{key}/{command}\",method=\"POST\",status=\"404\"}", 1.0),
    ] {
        assert_eq!(value(&app, sample), expected, "{sample}");
    }
    assert!(value(&app, "duality_wal_bytes") > 0.0);
    assert!(value(&app, "duality_disk_free_bytes") > 0.0);
    eventually("everything is published", || value(&app, "duality_relay_lag_revisions") == 0.0);
}

#[test]
fn streams_catch_ups_and_pruning_are_counted() {
    let app = App::with(|settings| settings.poll_interval = std::time::Duration::from_millis(20));
    for _ in 0..3 {
        app.post("/persons", r#"{"name":"Ann"}"#);
    }
    app.delete("/persons/1");
    let (_, cursor) = app.load("/persons");
    app.prune_everything();
    eventually("the pruned revisions are counted", || value(&app, "duality_pruned_revisions_total") == 4.0);
    assert_eq!(value(&app, "duality_outbox_revisions"), 0.0);
    let epoch = cursor.split('.').next().unwrap().to_owned();
    let mut streams = Vec::new();
    for id in [format!("{epoch}.1"), "ffffffff.1".to_owned(), cursor] {
        let mut stream = app.follow("/person-events", &[("Last-Event-ID", &id)]);
        stream.read_until(|text| text.contains("retry"));
        streams.push(stream);
    }
    eventually("three streams are open", || value(&app, "duality_open_streams") == 3.0);
    assert_eq!(value(&app, "duality_catch_ups_total"), 1.0);
    assert_eq!(value(&app, "duality_resets_total"), 1.0);
    drop(streams);
    eventually("no stream is open", || value(&app, "duality_open_streams") == 0.0);
}

#[test]
fn refused_streams_are_counted_by_the_limit_that_refused_them() {
    let app = App::with(|settings| {
        settings.max_sessions = count(2);
        settings.max_sessions_per_address = count(1);
    });
    assert_eq!(value(&app, "duality_max_streams"), 2.0);
    let _stream = app.follow("/person-events", &[]);
    app.request("GET", "/journal", &[], None).problem(503, "busy");
    assert_eq!(value(&app, "duality_refused_streams_total{limit=\"address\"}"), 1.0);
    assert_eq!(value(&app, "duality_refused_streams_total{limit=\"all\"}"), 0.0);
    let app = App::with(|settings| settings.max_sessions = count(1));
    let _stream = app.follow("/journal", &[]);
    for _ in 0..2 {
        app.request("GET", "/person-events", &[], None).problem(503, "busy");
    }
    assert_eq!(value(&app, "duality_refused_streams_total{limit=\"all\"}"), 2.0);
    assert_eq!(value(&app, "duality_open_streams"), 1.0);
}

#[test]
fn the_limits_and_what_the_process_uses_are_measured() {
    let app = App::with(|settings| {
        settings.queue = count(77);
        settings.min_free = duality::ByteSize::mib(3);
    });
    assert_eq!(value(&app, "duality_max_waiting_commands"), 77.0);
    assert_eq!(value(&app, "duality_min_free_bytes"), 3.0 * 1024.0 * 1024.0);
    assert!(value(&app, "duality_process_resident_memory_bytes") > 1e6);
    let open = value(&app, "duality_process_open_fds");
    assert!((10.0..value(&app, "duality_process_max_fds")).contains(&open), "{open}");
    eventually("CPU time has passed", || value(&app, "duality_process_cpu_seconds_total") > 0.0);
}

#[test]
fn a_tombstone_whose_deletion_was_rolled_back_does_not_count_as_pruned() {
    let mut app = App::with(|settings| settings.tombstone_retention = settings.retention);
    app.post("/persons", r#"{"name":"Ann"}"#);
    app.delete("/persons/1");
    app.stop();
    sql(
        app.database(),
        "CREATE TRIGGER refuse BEFORE UPDATE OF forgotten ON metadata BEGIN SELECT RAISE(ABORT, 'not now'); END",
    );
    app.resume();
    app.prune_everything();
    let tombstones = || lines(app.database(), "SELECT key AS line FROM aggregates WHERE body IS NULL");
    assert_eq!(tombstones(), ["1"]);
    assert_eq!(value(&app, "duality_pruned_tombstones_total"), 0.0);
    sql(app.database(), "DROP TRIGGER refuse");
    app.prune_everything();
    assert!(tombstones().is_empty());
    assert_eq!(value(&app, "duality_pruned_tombstones_total"), 1.0);
}

#[test]
fn no_request_adds_a_route_or_a_method() {
    let app = App::start();
    for path in ["/a", "/b", "/persons/1/nothing", "/persons/77", "/persons/78"] {
        assert_eq!(app.get(path).status, 404, "{path}");
    }
    assert_eq!(app.request("BREW", "/persons", &[], None).status, 405);
    assert_eq!(value(&app, "duality_requests_total{route=\"unmatched\",method=\"GET\",status=\"404\"}"), 3.0);
    assert_eq!(value(&app, "duality_requests_total{route=\"/persons/{key}\",method=\"GET\",status=\"404\"}"), 2.0);
    assert_eq!(value(&app, "duality_requests_total{route=\"/persons\",method=\"other\",status=\"405\"}"), 1.0);
}

#[test]
fn every_metric_is_in_the_table_with_its_labels_and_nothing_else_is() {
    let mut documented = BTreeMap::new();
    for row in document("operations.md").lines().filter(|line| line.starts_with("| `duality_")) {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let labels =
            cells[3].split(", ").filter(|label| !label.is_empty()).map(|label| label.trim_matches('`').to_owned());
        let labels: BTreeSet<_> = labels.collect();
        documented.insert(cells[1].trim_matches('`').to_owned(), labels);
    }
    let mut families: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (sample, labels) in exposed() {
        let labels = labels.into_iter().filter(|label| label != "le");
        families.entry(family(&sample).to_owned()).or_default().extend(labels);
    }
    assert_eq!(families, documented);
}

/// The names of metrics in an expression, each with the labels that it selects or groups by.
fn metrics_of(expression: &str) -> Vec<(String, BTreeSet<String>)> {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let grouped: Vec<_> = expression
        .match_indices("by (")
        .flat_map(|(at, begin)| expression[at + begin.len()..].split(')').next().unwrap().split(", "))
        .map(str::to_owned)
        .collect();
    let found = expression.match_indices("duality_").map(|(at, _)| {
        let rest = &expression[at..];
        let end = rest.find(|c| !word(c)).unwrap_or(rest.len());
        let selected = rest[end..].strip_prefix('{').map_or("", |labels| labels.split('}').next().unwrap());
        let selected = selected.split(',').filter_map(|label| label.split(['=', '!']).next()).map(str::to_owned);
        let labels = selected.chain(grouped.iter().cloned());
        // Prometheus adds these.
        let labels = labels.filter(|label| !label.is_empty() && label != "job" && label != "instance").collect();
        (rest[..end].to_owned(), labels)
    });
    found.collect()
}

#[test]
fn the_alert_rules_name_routes_that_exist() {
    let app = App::start();
    app.get("/readyz");
    app.get("/reports/city-history");
    let metrics = app.get("/metrics").text().to_owned();
    let alerts = document("alerts.yml");
    let patterns = alerts.split("route").filter_map(|rest| rest.trim_start_matches(['!', '=', '~']).strip_prefix('"'));
    let patterns: BTreeSet<_> = patterns.flat_map(|rest| rest.split('"').next().unwrap().split('|')).collect();
    assert!(!patterns.is_empty());
    for pattern in patterns {
        let route = format!("route=\"{}", pattern.trim_end_matches(".*"));
        assert!(metrics.contains(&route), "{pattern} is not in {metrics}");
    }
}

#[test]
fn the_dashboard_and_the_alert_rules_name_metrics_that_exist() {
    let dashboard: serde_json::Value = serde_json::from_str(&document("grafana-dashboard.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.filter_map(|panel| panel["targets"].as_array()).flatten();
    let mut expressions: Vec<_> = targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect();
    let drawn = expressions.join(" ");
    let alerts = document("alerts.yml");
    let rules = alerts.lines().filter_map(|line| line.trim().strip_prefix("expr: "));
    expressions.extend(rules.map(str::to_owned));
    assert_eq!(alerts.matches("- alert: ").count(), alerts.matches(" expr: ").count());
    assert_eq!(alerts.matches("- alert: ").count(), alerts.matches(" summary: ").count());
    let exposed = exposed();
    for expression in &expressions {
        for (name, labels) in metrics_of(expression) {
            let known = exposed.get(&name).unwrap_or_else(|| panic!("{name} does not exist: {expression}"));
            assert!(labels.is_subset(known), "{name} has the labels {known:?}: {expression}");
        }
        assert!(expression.contains("duality"), "{expression}");
    }
    for name in exposed.keys().map(|sample| family(sample)) {
        assert!(drawn.contains(name), "{name} is not in the dashboard");
    }
}
