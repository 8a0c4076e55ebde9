//! When the connection of a batch breaks, its statement may still be on its way to the server, or wait there for its turn. A
//! service that has answered that nothing was done has made sure that nothing will be.

use crate::harness::{App, Cluster, Marked, Outcome, Proxy, Wire, assert_agrees, eventually};

/// A service whose connections go through a proxy.
struct Late {
    cluster: Cluster,
    proxy: Proxy,
    app: App,
}

impl Late {
    fn start() -> Option<Self> {
        let cluster = Cluster::start()?;
        let proxy = Proxy::before(cluster.address());
        let app = App::with(|settings| settings.database = proxy.url("shop").into());
        Some(Self { cluster, proxy, app })
    }

    /// Changes what the service knows: one statement, without a look at the record.
    fn patch(&self, mark: &str) -> Marked {
        Marked::patch(&mut self.app.client(), "/persons/1", mark)
    }
}

#[test]
fn a_statement_that_arrives_after_nothing_was_done_does_nothing() {
    let Some(late) = Late::start() else { return };
    let first = Marked::post(&mut late.app.client(), "mark-first-", &[]);
    let known = late.patch("mark-known-");
    late.proxy.delay();
    let delayed = late.patch("mark-late-");
    assert_eq!(delayed.outcome, Outcome::NotDone);
    assert!(late.proxy.has_delayed());
    late.proxy.deliver();
    let after = late.patch("mark-after-");
    assert_eq!(after.outcome, Outcome::Done);
    assert_agrees(late.app.address, &[first, known, delayed, after]);
}

#[test]
fn a_statement_that_waits_for_its_turn_while_its_connection_breaks_is_done_or_never_will_be() {
    let Some(late) = Late::start() else { return };
    let first = Marked::post(&mut late.app.client(), "mark-first-", &[]);
    let known = late.patch("mark-known-");
    // What is not ended by those who wait.
    let mut holder = Wire::connect_to(late.cluster.address(), "shop", "duality maintenance");
    holder.execute("BEGIN");
    holder.execute("SELECT FROM metadata FOR UPDATE");
    let waiting = || {
        let query = "SELECT pid FROM pg_stat_activity \
                     WHERE application_name = 'duality write' AND wait_event_type = 'Lock' ORDER BY backend_start";
        late.cluster.execute("shop", query)
    };
    let late_one = std::thread::scope(|scope| {
        let waits = scope.spawn(|| late.patch("mark-late-"));
        let mut statement = String::new();
        eventually("the statement waits for its turn", || {
            statement = waiting();
            !statement.is_empty()
        });
        late.proxy.end_all();
        eventually("the question what became of it waits, too", || {
            waiting().lines().any(|process| process != statement)
        });
        holder.execute("COMMIT");
        waits.join().unwrap()
    });
    assert_ne!(late_one.outcome, Outcome::Unknown);
    let after = late.patch("mark-after-");
    assert_eq!(after.outcome, Outcome::Done);
    assert_agrees(late.app.address, &[first, known, late_one, after]);
}
