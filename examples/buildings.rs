//! One program in the four versions that it has had, as docs/evolution.md tells it: each starts on the database of the one
//! before. A program of yours has only its newest type.
//!
//! Run them, one after the other, with:
//!
//!     BUILDINGS=1 cargo run --example buildings -- --database buildings.db
//!     BUILDINGS=4 cargo run --example buildings -- --database buildings.db

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

/// Buildings have a city.
mod second {
    use super::{Deserialize, Document, JsonSchema, Key, Serialize, ValidationError, Value, schemars, with_city};

    #[derive(Serialize, Deserialize, JsonSchema)]
    pub(crate) struct Building {
        name: String,
        color: Option<String>,
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
mod third {
    use super::{Deserialize, Document, JsonSchema, Key, Serialize, ValidationError, Value, schemars, with_city};

    #[derive(Serialize, Deserialize, JsonSchema)]
    pub(crate) struct Building {
        name: String,
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
mod fourth {
    use super::{
        Derived, Deserialize, Document, JsonSchema, Key, Serialize, ValidationError, Value, schemars, with_city,
    };

    #[derive(Serialize, Deserialize, JsonSchema)]
    pub(crate) struct Building {
        title: String,
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

/// Before the second version, all buildings were in one city.
fn with_city(from: i64, mut document: Value) -> Value {
    if from < 2 {
        document["city"] = json!("Berlin");
    }
    document
}

fn main() -> ExitCode {
    let version = std::env::var("BUILDINGS").unwrap_or_default();
    let service = match version.as_str() {
        "1" => Service::new().document::<first::Building>(),
        "2" => Service::new().document::<second::Building>(),
        "3" => Service::new().document::<third::Building>(),
        _ => Service::new().document::<fourth::Building>().derived::<fourth::City>(),
    };
    service.run(Settings::parse())
}
