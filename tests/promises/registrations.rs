//! An invalid registration prevents the service from starting, and the error names the reason.

use std::path::Path;

use duality::schemars::{self, JsonSchema};
use duality::{BusinessRule, EventSourced, Root, Service, Settings};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, JsonSchema, thiserror::Error)]
#[error("never")]
struct Never;

impl BusinessRule for Never {}

#[derive(Serialize, Deserialize, JsonSchema)]
enum Fine {
    Open,
}

#[derive(Serialize, Deserialize, JsonSchema)]
enum OnTheFeed {
    Open,
    Events,
}

#[derive(Serialize, Deserialize, JsonSchema)]
enum InTheJournal {
    Open,
    Journal,
}

#[derive(Serialize, Deserialize, JsonSchema)]
enum TwiceTheSame {
    Open,
    AddItem,
    #[serde(rename = "add_item")]
    Add,
}

#[derive(Serialize, Deserialize, JsonSchema)]
enum Positional {
    Open,
    Move(i32, i32),
}

#[derive(Serialize, Deserialize, JsonSchema)]
enum Odd {
    Open,
    #[serde(rename = "öffnen")]
    Oeffnen,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind")]
enum Tagged {
    Open,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", content = "fields")]
enum TaggedBeside {
    Open,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Untagged {
    Open { title: String },
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct NoEnum {
    title: String,
}

/// Defines an aggregate from its name, the command that creates it, its commands and its events.
macro_rules! aggregate {
    ($type:ident, $name:literal, $opens:literal, $command:ty, $event:ty) => {
        #[derive(Serialize, Deserialize, JsonSchema)]
        struct $type {}

        impl EventSourced for $type {
            const NAME: &'static str = $name;
            const CREATE_COMMAND: &'static str = $opens;

            type Command = $command;
            type Event = $event;
            type Error = Never;

            fn handle(_: &mut Root<'_, Self>, _: $command) -> Result<(), Never> {
                Err(Never)
            }
            fn apply(state: Option<Self>, _: &$event) -> Option<Self> {
                state
            }
        }
    };
}

aggregate!(NothingOpens, "things", "Create", Fine, Fine);
aggregate!(OpensByItsPath, "things", "open", Fine, Fine);
aggregate!(CommandOnTheFeed, "things", "Open", OnTheFeed, Fine);
aggregate!(CommandInTheJournal, "things", "Open", InTheJournal, Fine);
aggregate!(CommandTwice, "things", "Open", TwiceTheSame, Fine);
aggregate!(PositionalCommand, "things", "Open", Positional, Fine);
aggregate!(PositionalEvent, "things", "Open", Fine, Positional);
aggregate!(OddCommand, "things", "Open", Odd, Fine);
aggregate!(OddEvent, "things", "Open", Fine, Odd);
aggregate!(TaggedCommand, "things", "Open", Tagged, Fine);
aggregate!(TaggedEvent, "things", "Open", Fine, Tagged);
aggregate!(TaggedBesideEvent, "things", "Open", Fine, TaggedBeside);
aggregate!(UntaggedCommand, "things", "Open", Untagged, Fine);
aggregate!(StructAsEvent, "things", "Open", Fine, NoEnum);
aggregate!(NameOfTheJournal, "journal", "Open", Fine, Fine);
aggregate!(NameOfThePage, "page", "Open", Fine, Fine);
aggregate!(NameOfDash, "-", "Open", Fine, Fine);
aggregate!(NameOfHealthz, "healthz", "Open", Fine, Fine);
aggregate!(NameOfReadyz, "readyz", "Open", Fine, Fine);
aggregate!(NameOfMetrics, "metrics", "Open", Fine, Fine);
aggregate!(NameOfDocs, "docs", "Open", Fine, Fine);
aggregate!(NameOfOpenapi, "openapi", "Open", Fine, Fine);
aggregate!(NoMistake, "things", "Open", Fine, Fine);

fn refusal<T: EventSourced>() -> String {
    let mut settings = Settings::default();
    settings.database = Path::new(":memory:").to_owned();
    match Service::new().event_sourced::<T>().open(settings) {
        Ok(_) => panic!("it was accepted"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn an_invalid_event_sourced_aggregate_is_rejected_with_the_reason() {
    const COMMANDS: &str =
        "things: the command type must be an enum in serde's default representation (externally tagged)";
    const EVENTS: &str = "things: the event type must be an enum in serde's default representation (externally tagged)";
    for (refusal, why) in [
        (refusal::<NothingOpens>(), r#"things: unknown create command "Create"; expected one of Open"#),
        (refusal::<OpensByItsPath>(), r#"things: unknown create command "open"; expected one of Open"#),
        (refusal::<CommandOnTheFeed>(), r#"things: the command name "events" is reserved"#),
        (refusal::<CommandInTheJournal>(), r#"things: the command name "journal" is reserved"#),
        (refusal::<CommandTwice>(), r#"things: two commands have the name "add-item""#),
        (
            refusal::<OddCommand>(),
            r#"things: invalid name "öffnen"; expected letters, digits, hyphens and underscores"#,
        ),
        (refusal::<OddEvent>(), r#"things: invalid name "öffnen"; expected letters, digits, hyphens and underscores"#),
        (
            refusal::<PositionalCommand>(),
            "things: the command Move has fields without names, so that no request could call it; declare it as \
             Move { name: type }",
        ),
        (refusal::<TaggedCommand>(), COMMANDS),
        (refusal::<TaggedEvent>(), EVENTS),
        (refusal::<TaggedBesideEvent>(), EVENTS),
        (refusal::<UntaggedCommand>(), COMMANDS),
        (refusal::<StructAsEvent>(), EVENTS),
        (refusal::<NameOfTheJournal>(), r#"the name "journal" is reserved"#),
        (refusal::<NameOfThePage>(), r#"the name "page" is reserved"#),
        (refusal::<NameOfDash>(), r#"the name "-" is reserved"#),
        (refusal::<NameOfHealthz>(), r#"the name "healthz" is reserved"#),
        (refusal::<NameOfReadyz>(), r#"the name "readyz" is reserved"#),
        (refusal::<NameOfMetrics>(), r#"the name "metrics" is reserved"#),
        (refusal::<NameOfDocs>(), r#"the name "docs" is reserved"#),
        (refusal::<NameOfOpenapi>(), r#"the name "openapi" is reserved"#),
    ] {
        assert_eq!(refusal, format!("the collections do not fit together: {why}"));
    }
}

#[test]
fn a_valid_aggregate_can_be_registered_once() {
    let twice = || Service::new().event_sourced::<NoMistake>().event_sourced::<NoMistake>();
    let Err(error) = twice().open(Settings::default()) else { panic!("it was accepted twice") };
    assert!(error.to_string().contains(r#"two collections have the name "things""#), "{error}");
    crate::harness::App::serving(|| Service::new().event_sourced::<PositionalEvent>(), |_| {});
    let app = crate::harness::App::serving(|| Service::new().event_sourced::<NoMistake>(), |_| {});
    assert_eq!(app.post("/things", "{}").json()["detail"], "never");
}
