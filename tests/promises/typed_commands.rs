//! Typed commands: the same service, without HTTP or in addition to it.

use std::future::Future;
use std::path::Path;

use duality::aggregates::{Account, AccountCommand, AccountError, CartCommand, CartError, ShoppingCart, shipped};
use duality::testing::key;
use duality::{CommandError, Key, Outcome, Running, Settings};
use serde_json::json;

use crate::harness::App;
use crate::own_aggregates::{Command, Jar, Rule, jars_and_crates};

fn settings(database: &Path) -> Settings {
    let mut settings = Settings::default();
    settings.database = database.to_owned();
    settings
}

/// Opens the shipped service without HTTP, runs some work, and stops it.
fn run<F: Future<Output = Result<Running, Box<dyn std::error::Error>>>>(
    database: &Path,
    work: impl FnOnce(Running) -> F,
) {
    actix::System::new().block_on(async {
        let running = work(shipped().open(settings(database)).unwrap()).await.unwrap();
        assert!(running.addresses().is_empty());
        running.stop().await.unwrap();
    });
}

async fn add(running: &Running, cart: &Key, item: &str) -> Result<Outcome<ShoppingCart>, CommandError<CartError>> {
    running.execute::<ShoppingCart>(cart, CartCommand::AddItem { item: key(item) }).await
}

#[test]
fn typed_commands_work_without_http_and_survive_a_restart() {
    let directory = crate::harness::directory();
    let database = directory.path().join("typed.db");
    let (sender, receiver) = std::sync::mpsc::channel();
    run(&database, |running| async move {
        let opened = running.open::<ShoppingCart>(CartCommand::Open).await.unwrap();
        assert_eq!((opened.version, opened.revision), (1, 1));
        let cart = opened.key;
        let added = add(&running, &cart, "apple").await.unwrap();
        assert_eq!((&added.key, added.version, added.revision), (&cart, 2, 2));
        assert_eq!(running.load::<ShoppingCart>(&cart).await.unwrap(), added.state);

        let broken = add(&running, &cart, "apple").await.unwrap_err();
        assert_eq!(broken.to_string(), format!("apple has already been added to cart {cart}!"));
        let CommandError::Rejected(rule) = broken else { panic!("{broken:?}") };
        assert_eq!(rule, CartError::ItemAlreadyAdded { item: key("apple"), cart: cart.clone() });
        sender.send((cart, added.state)).unwrap();
        Ok(running)
    });
    run(&database, |running| async move {
        let (cart, state) = receiver.recv().unwrap();
        assert_eq!(running.load::<ShoppingCart>(&cart).await?, state);
        assert_eq!(add(&running, &cart, "pear").await.unwrap().version, 3);
        Ok(running)
    });
}

#[test]
fn a_typed_command_is_rejected_like_one_over_http() {
    let directory = crate::harness::directory();
    run(&directory.path().join("typed.db"), |running| async move {
        let nowhere = key("00000000-0000-4000-8000-000000000001");
        let missing = add(&running, &nowhere, "apple").await.unwrap_err();
        assert!(matches!(missing, CommandError::NotFound), "{missing:?}");
        assert_eq!(running.load::<ShoppingCart>(&nowhere).await?, None);

        let invalid = running.execute::<ShoppingCart>(&key("mine"), CartCommand::Open).await.unwrap_err();
        assert!(matches!(&invalid, CommandError::Invalid(why) if why.to_string().contains("uuid")), "{invalid:?}");
        let needs_one = running.open::<Account>(AccountCommand::Book { amount: 1, text: String::new() }).await;
        assert!(matches!(needs_one, Err(CommandError::NotFound)), "{needs_one:?}");

        let unknown = running.execute::<Jar<false>>(&key("a"), Command::Open { marbles: 1 }).await;
        let Err(why @ CommandError::NotRegistered(_)) = unknown else { panic!("jars are not shipped") };
        assert_eq!(why.to_string(), "jars is not registered");
        let Err(why) = running.load::<Jar<false>>(&key("a")).await else { panic!("jars are not shipped") };
        assert!(why.to_string().contains("jars is not registered"), "{why}");

        // None of that had any effect.
        let chosen = running.execute::<Account>(&nowhere, AccountCommand::Open).await.unwrap();
        assert_eq!((chosen.key, chosen.version, chosen.revision), (nowhere.clone(), 1, 1));
        let book = AccountCommand::Book { amount: -1, text: String::new() };
        let Err(CommandError::Rejected(rule)) = running.execute::<Account>(&nowhere, book).await else {
            panic!("done")
        };
        assert_eq!(rule, AccountError::InsufficientFunds { account: nowhere, balance: 0, amount: -1 });
        Ok(running)
    });
}

#[test]
fn a_typed_command_is_published_like_one_over_http() {
    let app = App::serving(jars_and_crates, |_| {});
    let (mut state, mut feed) = (json!({}), app.follow("/events", &[]));
    app.hook(|running| {
        Box::pin(async move {
            let opened = running.open::<Jar<true>>(Command::Open { marbles: 9 }).await.unwrap();
            assert_eq!((opened.key.as_str(), opened.state.unwrap().marbles), ("1", 9));
            let full = running.execute::<Jar<true>>(&opened.key, Command::Add { marbles: 2 }).await;
            assert!(matches!(full, Err(CommandError::Rejected(Rule::JarFull { inside: 9 }))));
            let failed = running.execute::<Jar<true>>(&opened.key, Command::Lose).await;
            assert!(matches!(failed, Err(CommandError::Panicked)));
            let smashed = running.execute::<Jar<true>>(&opened.key, Command::Smash).await.unwrap();
            assert_eq!((smashed.state.is_none(), smashed.version, smashed.revision), (true, 2, 2));
            let jar = running.execute::<Jar<false>>(&key("a"), Command::Open { marbles: 1 }).await.unwrap();
            assert_eq!((jar.version, jar.revision), (1, 3));
        })
    });
    feed.follow(&mut state, 3);
    assert_eq!(
        (&state, app.get("/aggregates").json()),
        (&json!({"jars": {"a": {"marbles": 1}}, "crates": {}}), state.clone())
    );
    assert_eq!(app.post("/jars/a/add", r#"{"marbles":1}"#).text(), r#"{"marbles":2}"#);
}

#[test]
fn a_typed_command_is_answered_while_the_thread_that_opened_the_service_blocks() {
    let directory = crate::harness::directory();
    run(&directory.path().join("typed.db"), |running| async move {
        let running = std::sync::Arc::new(running);
        let elsewhere = std::sync::Arc::clone(&running);
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let system = actix::System::new();
            sender.send(system.block_on(elsewhere.open::<ShoppingCart>(CartCommand::Open)).unwrap()).unwrap();
        });
        // This thread blocks meanwhile.
        let opened = receiver.recv_timeout(crate::harness::DEADLINE).unwrap();
        assert_eq!(opened.version, 1);
        let mut shared = running;
        loop {
            match std::sync::Arc::try_unwrap(shared) {
                Ok(running) => return Ok(running),
                Err(still) => shared = still,
            }
            std::thread::yield_now();
        }
    });
}
