//! Parts of the pipeline one by one, which the benchmark of the whole service (`speed`) cannot tell apart: merge patches,
//! the one transaction of a write, events as bytes, a page of the log, the fold of an aggregate, and shared bodies.
//!
//!     cargo bench --bench micro
//!     cargo bench --bench micro -- diff
//!
//! The second runs those whose names contain `diff`; further flags are those of divan (`-- --help`). Prints the time of one
//! run of each (fastest, slowest, median, mean) and, where something is counted, how much of it that is in a second.
//! Databases are files in the directory for temporary files (`TMPDIR`); what a commit takes is what its disk takes to sync.

#![expect(clippy::unwrap_used, reason = "a benchmark that fails has no figures")]

use std::time::Duration;

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, Divan};
use duality::Key;
use duality::benchmarks::{Batch, Collections, Command, Registration, SharedBody, Store};
use duality::collections::{Location, Person, ShoppingCart};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// How often a benchmark is measured, if it does not take longer than that, its preparation aside.
const SAMPLES: u32 = 1000;
const TIME: Duration = Duration::from_secs(1);

fn main() {
    // `cargo test --benches` only wants to see it compiled.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    Divan::default().sample_count(SAMPLES).max_time(TIME).config_with_args().main();
}

/// A new database with persons, locations and carts.
fn store() -> (TempDir, Store, Collections) {
    let directory = tempfile::tempdir().unwrap();
    let registration =
        Registration::default().document::<Person>().derived::<Location>().event_sourced::<ShoppingCart>();
    let store = Store::open(&directory.path().join("micro.db"), registration).unwrap();
    let collections = store.collections();
    (directory, store, collections)
}

/// A person of one of a hundred cities.
fn person(number: usize) -> Value {
    json!({"name": format!("Person {number}"), "city": format!("City {}", number % 100)})
}

/// Creates so many persons, a revision each, in one batch.
fn create(store: &mut Store, persons: usize) -> Batch {
    let collections = store.collections();
    let commands = (0..persons).map(|number| collections.create("persons", person(number)).unwrap());
    store.commit(commands.collect()).unwrap()
}

fn key(number: usize) -> Key {
    Key::of_number(i64::try_from(number).unwrap())
}

/// JSON merge patches, where one member has changed.
mod merge_patch {
    use super::{Bencher, Map, Value, json};

    const STATES: [&str; 3] = ["person", "object of 100 members", "cart of 20 items"];

    /// A state before and after.
    fn states(name: &str) -> (Value, Value) {
        let mut after = match name {
            "person" => json!({"name": "Ada", "city": "London", "spouse": 7}),
            "cart of 20 items" => {
                let item = json!({"added": "2026-11-22T08:30:00.123Z"});
                let items: Map<_, _> = (0..20).map(|number| (format!("item-{number}"), item.clone())).collect();
                json!({"status": "open", "items": items})
            }
            _ => (0..100).map(|number| (format!("member-{number}"), json!(number))).collect::<Map<_, _>>().into(),
        };
        let before = after.clone();
        match name {
            "person" => after["city"] = json!("Rome"),
            "cart of 20 items" => after["items"]["item-20"] = json!({"added": "2026-11-22T08:30:01.123Z"}),
            _ => after["member-50"] = json!("changed"),
        }
        (before, after)
    }

    #[divan::bench(args = STATES)]
    fn diff(bencher: Bencher<'_, '_>, name: &str) {
        let (before, after) = states(name);
        assert!(duality::benchmarks::diff(&before, &after).is_some());
        bencher.bench_local(|| duality::benchmarks::diff(divan::black_box(&before), divan::black_box(&after)));
    }

    #[divan::bench(args = STATES)]
    fn apply(bencher: Bencher<'_, '_>, name: &str) {
        let (before, after) = states(name);
        let patch = duality::benchmarks::diff(&before, &after).unwrap();
        bencher.with_inputs(|| (before.clone(), patch.clone())).bench_local_values(|(mut state, patch)| {
            duality::benchmarks::apply(&mut state, patch);
            state
        });
    }
}

/// The one transaction, durable on the disk: batches of so many commands.
mod commit {
    use super::{Bencher, Collections, Command, ItemsCount, create, json, key, store};

    const BATCHES: [usize; 3] = [1, 64, 256];
    const THERE: usize = 1000;

    /// Commits batches of commands, which are numbered; each database begins with some persons.
    fn committed(bencher: Bencher<'_, '_>, batch: usize, command: impl Fn(&Collections, usize) -> Command) {
        let (_directory, mut store, collections) = store();
        create(&mut store, THERE);
        let mut numbers = 0..;
        bencher
            .counter(ItemsCount::new(batch))
            .with_inputs(|| {
                numbers.by_ref().take(batch).map(|number| command(&collections, number)).collect::<Vec<_>>()
            })
            .bench_local_values(|commands| store.commit(commands).unwrap());
    }

    #[divan::bench(args = BATCHES, sample_size = 1)]
    fn create_persons(bencher: Bencher<'_, '_>, batch: usize) {
        committed(bencher, batch, |collections, number| {
            collections.create("persons", json!({"name": format!("Person {number}")})).unwrap()
        });
    }

    /// Each also changes the one location.
    #[divan::bench(args = BATCHES, sample_size = 1)]
    fn create_persons_of_one_city(bencher: Bencher<'_, '_>, batch: usize) {
        committed(bencher, batch, |collections, number| {
            let person = json!({"name": format!("Person {number}"), "city": "Rome"});
            collections.create("persons", person).unwrap()
        });
    }

    #[divan::bench(args = BATCHES, sample_size = 1)]
    fn patch_persons(bencher: Bencher<'_, '_>, batch: usize) {
        committed(bencher, batch, |collections, number| {
            let patch = json!({"name": format!("Another {number}")});
            collections.patch("persons", key(number % THERE + 1), patch).unwrap()
        });
    }
}

/// Change events on their way to those who follow a feed.
mod events {
    use super::{Bencher, BytesCount, Collections, ItemsCount, create, store};
    use duality::benchmarks::Feed;

    const EVENTS: usize = 1000;
    const FEEDS: [&str; 2] = ["collection", "document"];

    fn feed(name: &str, collections: &Collections) -> Feed {
        if name == "document" { Feed::document() } else { collections.feed("persons").unwrap() }
    }

    /// A thousand revisions, each a person and a location, as the hub encodes them.
    #[divan::bench(args = FEEDS)]
    fn encode(bencher: Bencher<'_, '_>, name: &str) {
        let (_directory, mut store, collections) = store();
        let (batch, feed) = (create(&mut store, EVENTS), feed(name, &collections));
        let bytes = BytesCount::new(store.encode(&feed, &batch).size());
        bencher.counter(ItemsCount::new(EVENTS)).counter(bytes).bench_local(|| store.encode(&feed, &batch));
    }

    /// The first page of 128 KiB of ten thousand revisions, as a session has it read from the outbox.
    #[divan::bench(args = FEEDS)]
    fn replay(bencher: Bencher<'_, '_>, name: &str) {
        let (_directory, mut store, collections) = store();
        let (after, feed) = (create(&mut store, 10 * EVENTS).after(), feed(name, &collections));
        let page = store.follow(&feed, after).unwrap();
        let events = usize::try_from(page.to - after).unwrap();
        assert_eq!(page.text.matches("id: ").count(), events);
        bencher
            .counter(ItemsCount::new(events))
            .counter(BytesCount::new(page.text.len()))
            .bench_local(|| store.follow(&feed, after).unwrap());
    }
}

/// An aggregate of a thousand events.
mod fold {
    use super::{Bencher, ItemsCount, Key, Store, json, store};

    const EVENTS: usize = 1000;
    /// The most items that are in the cart at once.
    const ITEMS: [usize; 2] = [1, 999];

    /// A cart to which items are added, and each taken out again when there would be too many.
    fn cart(store: &mut Store, items: usize) -> Key {
        let collections = store.collections();
        let opened = store.commit(vec![collections.create("carts", json!({})).unwrap()]).unwrap();
        let key = opened.keys().next().unwrap().clone();
        let commands = (0..EVENTS - 1).map(|number| {
            let (command, item) =
                if items == 1 && number % 2 == 1 { ("remove-item", number - 1) } else { ("add-item", number) };
            collections.handle("carts", key.clone(), command, json!({"item": format!("item-{item}")})).unwrap()
        });
        store.commit(commands.collect()).unwrap();
        key
    }

    /// From the journal, as a command does that finds no row.
    #[divan::bench(args = ITEMS)]
    fn rehydrate(bencher: Bencher<'_, '_>, items: usize) {
        let (_directory, mut store, _) = store();
        let key = cart(&mut store, items);
        assert_eq!(store.rehydrate("carts", &key).unwrap().0, 1000);
        bencher.counter(ItemsCount::new(EVENTS)).bench_local(|| store.rehydrate("carts", &key).unwrap());
    }

    /// The same without the database: reading the events as JSON, applying them, writing the state.
    #[divan::bench(args = ITEMS)]
    fn refold(bencher: Bencher<'_, '_>, items: usize) {
        let (_directory, mut store, collections) = store();
        let key = cart(&mut store, items);
        let events = store.events("carts", &key).unwrap();
        assert_eq!(events.count(), EVENTS);
        bencher.counter(ItemsCount::new(EVENTS)).bench_local(|| events.fold(&collections).unwrap());
    }
}

/// The body of ten thousand persons that all share who read it. A sample is one run, so that what was made is let go before
/// the next is: otherwise there would at some time be no room.
mod body {
    use super::{Bencher, ItemsCount, SharedBody, create, json, key, store};

    const PERSONS: usize = 10_000;
    const ROOM: usize = 1 << 30;

    #[divan::bench(sample_size = 1)]
    fn anew(bencher: Bencher<'_, '_>) {
        let (_directory, mut store, collections) = store();
        create(&mut store, PERSONS);
        let body = SharedBody::new(&collections, "persons", ROOM).unwrap();
        let order = body.order(&store).unwrap().unwrap();
        bencher.counter(ItemsCount::new(PERSONS)).bench_local(|| order.run(&mut store).unwrap());
        let made = order.run(&mut store).unwrap();
        order.keep(made);
        assert!(body.size(&store).is_some());
    }

    /// After so many changes, of persons that are so far apart. What is made is not kept, so that each run does the same.
    fn refreshed(bencher: Bencher<'_, '_>, changes: usize, apart: usize) {
        let (_directory, mut store, collections) = store();
        create(&mut store, PERSONS);
        let body = SharedBody::new(&collections, "persons", ROOM).unwrap();
        let order = body.order(&store).unwrap().unwrap();
        let made = order.run(&mut store).unwrap();
        order.keep(made);
        let before = body.size(&store).unwrap();
        let patches = (0..changes).map(|number| {
            let person = key(number * apart + 5);
            collections.patch("persons", person, json!({"name": format!("Another {number}")})).unwrap()
        });
        store.commit(patches.collect()).unwrap();
        let order = body.order(&store).unwrap().unwrap();
        bencher.counter(ItemsCount::new(changes)).bench_local(|| order.run(&mut store).unwrap());
        let made = order.run(&mut store).unwrap();
        order.keep(made);
        assert_ne!(body.size(&store).unwrap(), before);
    }

    #[divan::bench(args = [1, 100], sample_size = 1)]
    fn refresh_apart(bencher: Bencher<'_, '_>, changes: usize) {
        refreshed(bencher, changes, PERSONS / 100);
    }

    #[divan::bench(args = [100], sample_size = 1)]
    fn refresh_neighbours(bencher: Bencher<'_, '_>, changes: usize) {
        refreshed(bencher, changes, 1);
    }
}
