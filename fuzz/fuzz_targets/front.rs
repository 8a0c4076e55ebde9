//! Any bytes to a real server on a free port: always HTTP, never a server error.

#![no_main]

use std::net::SocketAddr;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/promises/harness/exchange.rs"]
mod exchange;

/// A service with a database in memory, which runs until the process ends.
static SERVICE: LazyLock<SocketAddr> = LazyLock::new(|| {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        actix::System::new().block_on(async {
            let mut settings = duality::Settings::default();
            settings.listen = "127.0.0.1:0".to_owned();
            settings.database = ":memory:".into();
            let running = duality::aggregates::shipped().start(settings).await.unwrap();
            sender.send(running.addresses()[0]).unwrap();
            std::future::pending::<()>().await;
        });
    });
    receiver.recv().unwrap()
});

fuzz_target!(|bytes: &[u8]| {
    let answer = exchange::exchange(*SERVICE, bytes).unwrap();
    exchange::check(&answer).unwrap();
});
