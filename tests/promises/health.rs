//! `/healthz` and `/readyz` report what does not work.

use serde_json::json;

use crate::harness::{App, Client, Process, eventually};

#[test]
fn a_service_that_works_is_healthy_and_ready() {
    let app = App::start();
    let health = app.get("/healthz").json();
    assert_eq!((&health["status"], &health["reasons"]), (&json!("ok"), &json!([])), "{health}");
    let ready = app.get("/readyz");
    assert_eq!((ready.status, ready.header("Cache-Control")), (200, Some("no-store")));
    assert_eq!(ready.json(), json!({"status": "ready"}));
    for path in ["/healthz", "/readyz"] {
        let head = app.request("HEAD", path, &[], None);
        assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
    }
}

#[test]
fn with_too_little_free_room_a_service_is_degraded_and_not_ready_but_works() {
    let app = App::with(|settings| settings.min_free = duality::ByteSize::pib(1));
    let problem = app.get("/readyz");
    assert!(problem.header("Retry-After").is_some());
    let problem = problem.problem(503, "not-ready");
    assert_eq!(problem["reasons"][0]["part"], "disk", "{problem}");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("--min-free") && detail.contains("less than 1.0 PiB are free"), "{detail}");
    let health = app.get("/healthz");
    assert_eq!((health.status, &health.json()["status"]), (200, &json!("degraded")));
    assert_eq!(health.json()["reasons"], problem["reasons"]);
    assert_eq!(app.post("/persons", r#"{"name":"Ann"}"#).status, 201);
}

#[test]
fn a_service_that_stops_is_not_ready_any_more() {
    let directory = crate::harness::directory();
    let mut process = Process::start(&directory.path().join("test.db"), &[]);
    let mut client = Client::connect(process.address);
    assert_eq!(client.request("GET", "/readyz", &[], None).status, 200);
    process.signal("TERM");
    eventually("the service has begun to stop", || process.log().contains("the service is stopping"));
    // It may have closed the idle connection already.
    if client.try_send("GET", "/readyz", &[], None).is_ok()
        && let Ok(response) = client.try_response("GET")
    {
        let problem = response.problem(503, "not-ready");
        assert_eq!(problem["reasons"], json!([{"part": "stopping", "reason": "the service is stopping"}]));
    }
    assert!(process.wait().success());
}

#[test]
fn a_failing_projection_degrades_a_service_that_stays_ready() {
    let app = App::start();
    let directory = format!("{}.projections", app.files().display());
    let tables = format!("{directory}/city_history.1.db");
    eventually("the projection is built", || std::path::Path::new(&tables).exists());
    eventually("the projection is live", || app.get("/projections/city_history").json()["state"] == "live");
    let lock = crate::harness::Lock::take(std::path::Path::new(&tables));
    app.post("/persons", r#"{"name":"Ann","city":"Rome"}"#);
    eventually("the projection is failing", || app.get("/healthz").json()["status"] == "degraded");
    let health = app.get("/healthz").json();
    let expected = json!([{"part": "projection", "reason": "the projection city_history is failing"}]);
    assert_eq!(health["reasons"], expected, "{health}");
    assert_eq!(app.get("/readyz").status, 200);
    drop(lock);
    eventually("the service is healthy", || app.get("/healthz").json()["status"] == "ok");
}

#[test]
fn a_replaced_file_is_a_reason_while_everything_else_is_refused() {
    let directory = crate::harness::directory();
    let database = directory.path().join("test.db");
    let process = Process::start(&database, &["--poll-interval", "20ms", "--heartbeat", "1h"]);
    let get = |path: &str| Client::connect(process.address).request("GET", path, &[], None);
    std::fs::rename(&database, directory.path().join("other.db")).unwrap();
    eventually("the service is not ready", || get("/readyz").status == 503);
    let problem = get("/readyz").problem(503, "not-ready");
    assert_eq!(problem["reasons"][0]["part"], "file", "{problem}");
    let health = get("/healthz");
    assert_eq!((health.status, &health.json()["status"]), (200, &json!("degraded")));
    assert!(get("/metrics").text().contains("duality_health{part=\"file\"} 0\n"));
    get("/persons").problem(503, "replaced");
}
