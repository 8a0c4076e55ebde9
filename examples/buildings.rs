//! One program in the six versions that it has had, as docs/evolution.md tells it: each starts on the database of the one
//! before. A program of yours has only its newest type.
//!
//! Run them, one after the other, with:
//!
//!     BUILDINGS=1 cargo run --example buildings -- --database buildings.db
//!     BUILDINGS=5 cargo run --example buildings -- --database buildings.db
//!
//! The sixth has no cities any more. It starts once they are dropped:
//!
//!     cargo run --example buildings -- collection drop cities --database buildings.db
//!     cargo run --example buildings -- --database buildings.db

use std::process::ExitCode;

use duality::schemars::{self, JsonSchema};
use duality::{Derived, Document, Key, Service, Settings, ValidationError};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The first version.
mod first {
    use super::{Deserialize, Document, JsonSchema, Serialize, schemars};

    #[derive(Serialize, Deserialize, JsonSchema)]
    pub(crate) struct Building {
        name: String,
        color: Option<String>,
    }

    impl Document for Building {
        const NAME: &'static str = "buildings";
    }
}

/// Buildings may have a number of floors: a member that may be absent needs no other version of the documents.
mod second {
    use super::{Deserialize, Document, JsonSchema, Serialize, schemars};

    #[derive(Serialize, Deserialize, JsonSchema)]
    pub(crate) struct Building {
        name: String,
        color: Option<String>,
        floors: Option<u32>,
    }

    impl Document for Building {
        const NAME: &'static str = "buildings";
    }
}

/// They have a city, which is required.
mod third {
    use super::{Deserialize, Document, JsonSchema, Key, Serialize, ValidationError, Value, schemars, with_city};

    #[derive(Serialize, Deserialize, JsonSchema)]
    pub(crate) struct Building {
        name: String,
        color: Option<String>,
        floors: Option<u32>,
        city: Key,
    }

    impl Document for Building {
        const NAME: &'static str = "buildings";
        const VERSION: i64 = 2;

        fn upgrade(from: i64, document: Value) -> Result<Value, ValidationError> {
            Ok(with_city(from, document))
        }
    }
}

/// They have no color any more.
mod fourth {
    use super::{Deserialize, Document, JsonSchema, Key, Serialize, ValidationError, Value, schemars, with_city};

    #[derive(Serialize, Deserialize, JsonSchema)]
    pub(crate) struct Building {
        name: String,
        floors: Option<u32>,
        city: Key,
    }

    impl Document for Building {
        const NAME: &'static str = "buildings";
        const VERSION: i64 = 3;

        fn upgrade(from: i64, document: Value) -> Result<Value, ValidationError> {
            Ok(with_city(from, document))
        }
    }
}

/// Their name is a title, and cities count them.
mod fifth {
    use super::{
        Derived, Deserialize, Document, JsonSchema, Key, Serialize, ValidationError, Value, schemars, with_city,
    };

    #[derive(Serialize, Deserialize, JsonSchema)]
    pub(crate) struct Building {
        title: String,
        floors: Option<u32>,
        city: Key,
    }

    impl Document for Building {
        const NAME: &'static str = "buildings";
        const VERSION: i64 = 4;

        fn upgrade(from: i64, document: Value) -> Result<Value, ValidationError> {
            let mut document = with_city(from, document);
            document["title"] = document["name"].take();
            Ok(document)
        }
    }

    #[derive(Default, Serialize, Deserialize, JsonSchema)]
    pub(crate) struct City {
        buildings: u32,
    }

    impl Derived for City {
        const NAME: &'static str = "cities";
        type Source = Building;

        fn key(building: &Building) -> Option<Key> {
            Some(building.city.clone())
        }

        fn add(&mut self, _: &Building) {
            self.buildings += 1;
        }

        fn remove(&mut self, _: &Building) {
            self.buildings -= 1;
        }

        fn is_empty(&self) -> bool {
            self.buildings == 0
        }
    }
}

/// Before they had a city, all buildings were in one.
fn with_city(from: i64, mut document: Value) -> Value {
    if from < 2 {
        document["city"] = json!("Berlin");
    }
    document
}

/// The service as it was in a version of the program, or as it is now.
pub(crate) fn service(version: u32) -> Service {
    match version {
        1 => Service::new().document::<first::Building>(),
        2 => Service::new().document::<second::Building>(),
        3 => Service::new().document::<third::Building>(),
        4 => Service::new().document::<fourth::Building>(),
        5 => Service::new().document::<fifth::Building>().derived::<fifth::City>(),
        // Nobody counts the buildings of a city any more.
        _ => Service::new().document::<fifth::Building>(),
    }
}

/// The newest version.
pub(crate) const NEWEST: u32 = 6;

fn main() -> ExitCode {
    let version = std::env::var("BUILDINGS").ok().and_then(|version| version.parse().ok());
    service(version.unwrap_or(NEWEST)).run(Settings::parse())
}
