//! A connection to a `PostgreSQL` server may end between any two messages. Then the service asks over a new one what became
//! of the batch, and says nothing before it knows.

use crate::harness::{App, Client, Cluster, Cut, Marked, Outcome, Proxy, Way, assert_agrees, eventually, kills};

/// A service whose connections go through a proxy, and what its clients have sent.
struct Cuts {
    _cluster: Cluster,
    proxy: Proxy,
    /// It writes the same database directly.
    other: App,
    app: App,
    client: Client,
    sent: Vec<Marked>,
}

/// A command that needs certain statements.
type Command = fn(&mut Cuts) -> Marked;

impl Cuts {
    fn start() -> Option<Self> {
        let cluster = Cluster::start()?;
        let proxy = Proxy::before(cluster.address());
        let service = |url: String| App::with(|settings| settings.database = url.into());
        let (other, app) = (service(cluster.url("shop")), service(proxy.url("shop")));
        assert_eq!(other.post("/persons", r#"{"name":"Eve"}"#).status, 201);
        let client = app.client();
        let mut cuts = Self { _cluster: cluster, proxy, other, app, client, sent: Vec::new() };
        let first = cuts.prefetched();
        cuts.sent.push(first);
        Some(cuts)
    }

    fn mark(&self) -> String {
        format!("mark-{}-", self.sent.len())
    }

    /// It changes a row that the service knows: one statement.
    fn known(&mut self) -> Marked {
        let mark = self.mark();
        Marked::patch(&mut self.client, "/persons/2", &mark)
    }

    /// It needs a row that the service does not know, and that is fetched.
    fn prefetched(&mut self) -> Marked {
        let mark = self.mark();
        Marked::post(&mut self.client, &mark, &[])
    }

    /// Another service has written meanwhile, so that it is executed under the lock.
    fn locked(&mut self) -> Marked {
        assert_eq!(self.other.post("/persons", r#"{"name":"Eve"}"#).status, 201);
        self.known()
    }

    /// Sends a command while the proxy cuts. Returns whether it had nothing to cut any more.
    fn cut(&mut self, cuts: &[Cut], command: Command) -> bool {
        // A new connection has more messages for its first batch. A batch that was not done leaves none.
        eventually("the service writes", || {
            let marked = self.known();
            let is_done = marked.outcome == Outcome::Done;
            self.sent.push(marked);
            is_done
        });
        self.proxy.cut(cuts);
        let marked = command(self);
        assert_ne!(marked.outcome, Outcome::Unknown, "{cuts:?}: the server can be asked");
        self.sent.push(marked);
        self.proxy.disarm() > 0
    }

    /// Cuts after each number of messages, each way, until there is nothing left to cut: the number of messages of either.
    fn cut_each(&mut self, command: Command) -> [usize; 2] {
        [Way::ToServer, Way::ToService]
            .map(|way| (0..).find(|after| self.cut(&[Cut { way, after: *after }], command)).unwrap())
    }

    /// The same for the messages after a first cut, of which only some are tried if few kills are wanted.
    fn cut_some(&mut self, before: Cut, command: Command) -> [usize; 2] {
        let step = usize::try_from(60 / kills()).unwrap().max(1);
        [Way::ToServer, Way::ToService].map(|way| {
            (0..).step_by(step).find(|after| self.cut(&[before, Cut { way, after: *after }], command)).unwrap()
        })
    }
}

#[test]
fn a_connection_that_is_cut_between_any_two_messages_of_a_batch_leaves_no_doubt() {
    let Some(mut cuts) = Cuts::start() else { return };
    let known = cuts.cut_each(Cuts::known);
    let prefetched = cuts.cut_each(Cuts::prefetched);
    let locked = cuts.cut_each(Cuts::locked);
    assert!(known.iter().all(|messages| *messages >= 4), "{known:?}");
    assert!(prefetched.iter().zip(known).all(|(messages, known)| *messages >= 2 * known), "{prefetched:?}");
    assert!(locked.iter().zip(known).all(|(messages, known)| *messages >= 3 * known), "{locked:?}");
    let outcomes = |outcome| cuts.sent.iter().filter(|sent| sent.outcome == outcome).count();
    assert!(outcomes(Outcome::NotDone) > 3, "before the end of a batch");
    assert_agrees(cuts.app.address, &cuts.sent);
}

#[test]
fn a_connection_that_is_cut_while_it_asks_what_became_of_a_batch_leaves_no_doubt() {
    let Some(mut cuts) = Cuts::start() else { return };
    for before in [Way::ToServer, Way::ToService].map(|way| Cut { way, after: 0 }) {
        let messages = cuts.cut_some(before, Cuts::known);
        assert!(messages.iter().all(|messages| *messages >= 10), "a new connection, and its question: {messages:?}");
    }
    assert_agrees(cuts.app.address, &cuts.sent);
}
