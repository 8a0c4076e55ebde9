//! Services that start at the same moment, on a database of a server that nobody has used before.

use std::collections::BTreeSet;

use crate::harness::App;
use crate::harness::engine::{psql, shared_server};

#[test]
fn services_that_start_at_once_on_an_empty_database_share_one_epoch() {
    const SERVICES: usize = 4;
    let Some(server) = shared_server() else { return };
    for _ in 0..3 {
        let url = &server.new_database();
        let services: Vec<_> = std::thread::scope(|scope| {
            let starts: Vec<_> =
                (0..SERVICES).map(|_| scope.spawn(|| App::with(|settings| settings.database = url.into()))).collect();
            starts.into_iter().map(|start| start.join().unwrap()).collect()
        });
        for (service, revision) in services.iter().zip(1..) {
            assert_eq!(service.post("/persons", r#"{"name":"Ann"}"#).revision(), revision);
        }
        let epochs: BTreeSet<_> =
            services.iter().map(|service| service.get("/persons").header("X-Epoch").unwrap().to_owned()).collect();
        assert_eq!(epochs.len(), 1, "{epochs:?}");
        assert_eq!(psql(url, "SELECT count(*) FROM epochs"), "1");
    }
}
