//! Every SSE client of a feed has one session actor, and every thread of the service has a name.

use duality::Running;

use crate::harness::{App, eventually};

fn session_actors(app: &App) -> usize {
    app.figure(Running::session_actors)
}

#[test]
fn a_session_actor_runs_from_connect_to_close_of_each_stream() {
    let app = App::start();
    assert_eq!(session_actors(&app), 0);
    let mut quiet = app.follow("/person-events", &[]);
    quiet.read_until(|text| text.contains("retry"));
    assert_eq!(session_actors(&app), 1);
    let mut live = app.follow("/persons/1/events", &[]);
    live.read_until(|text| text.contains("retry"));
    assert_eq!(session_actors(&app), 2, "one for each stream");
    app.post("/persons", r#"{"name":"Ann"}"#);
    assert_eq!(live.next().revision(), 1);
    assert_eq!(session_actors(&app), 2, "the same actors after an event, one of a stream that was quiet until then");
    drop(quiet);
    eventually("the actor of the closed stream stops", || session_actors(&app) == 1);
    drop(live);
    eventually("the other one stops", || session_actors(&app) == 0);
    app.request("GET", "/person-events", &[("Accept", "application/json")], None);
    assert_eq!(session_actors(&app), 0, "pages need no session");
}

#[test]
fn threads_have_names() {
    let app = App::start();
    app.get("/persons");
    let names = || -> Vec<String> {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
        // A thread of another test may have ended meanwhile.
        tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok()).collect()
    };
    for name in
        ["duality-writer", "duality-relay", "duality-work-0", "duality-work-1", "duality-read-0", "duality-scan-1"]
    {
        eventually(name, || names().iter().any(|found| found.trim_end() == name));
    }
}
