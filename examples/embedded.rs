//! Event-sourced aggregates embedded in your own program: typed commands, no HTTP.
//!
//! Run it with:
//!
//!     cargo run --example embedded

#![expect(clippy::print_stdout, reason = "the output is what the example shows")]

use duality::aggregates::CartCommand::{AddItem, Open};
use duality::aggregates::CartError::ItemAlreadyAdded;
use duality::aggregates::ShoppingCart;
use duality::{CommandError, Key, Service, Settings};

type Failed = Box<dyn std::error::Error>;

fn main() -> Result<(), Failed> {
    let mut settings = Settings::default();
    settings.database = ":memory:".into();
    actix::System::new().block_on(shop(settings))
}

async fn shop(settings: Settings) -> Result<(), Failed> {
    let running = Service::new().event_sourced::<ShoppingCart>().open(settings)?;
    let apple = || Key::parse("apple").expect("a short word is a key");

    let cart = running.open::<ShoppingCart>(Open).await?.key;
    let added = running.execute::<ShoppingCart>(&cart, AddItem { item: apple() }).await?;
    println!("added: version {}, revision {}", added.version, added.revision);

    match running.execute::<ShoppingCart>(&cart, AddItem { item: apple() }).await {
        Err(CommandError::Rejected(rule @ ItemAlreadyAdded { .. })) => println!("refused: {rule}"),
        other => return Err(format!("an apple was added twice: {other:?}").into()),
    }
    println!("the cart: {:?}", running.load::<ShoppingCart>(&cart).await?);

    Ok(running.stop().await?)
}
