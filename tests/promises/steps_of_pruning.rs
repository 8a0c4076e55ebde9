//! Whatever is pruned, no transaction that does it is long: neither by its rows nor by its bytes.

use crate::harness::App;
use crate::harness::engine::{PostgresServer, psql};

#[test]
fn large_change_events_are_pruned_in_several_transactions() {
    const WRITES: usize = 24;
    let options = ["-c", "fsync=off", "-c", "log_statement=all", "-c", "log_line_prefix=%a|"];
    let Some(server) = PostgresServer::start_for("the steps of pruning are", &options) else { return };
    let url = server.new_database();
    let app = App::with(|settings| settings.database = url.clone().into());
    let name = "x".repeat(512 * 1024);
    for number in 0..WRITES {
        assert_eq!(app.post("/persons", &format!(r#"{{"name":"{number}{name}"}}"#)).status, 201);
    }
    app.prune_everything();
    assert_eq!(psql(&url, "SELECT count(*) FROM outbox"), "0");
    // Twelve megabytes, four at a time.
    let steps = server.log().lines().filter(|line| line.contains(r#"DELETE FROM "outbox""#)).count();
    assert_eq!(steps, 3);
}
