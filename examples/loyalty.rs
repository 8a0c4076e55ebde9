//! A loyalty programme: event-sourced members who earn and redeem points, with tests.
//!
//! Run it with:
//!
//!     cargo run --example loyalty -- --database :memory:
//!
//! Then, in another terminal:
//!
//!     curl -X PUT localhost:3000/members/ann
//!     curl --json '{"points":50}' localhost:3000/members/ann/earn
//!     curl --json '{"points":80}' localhost:3000/members/ann/redeem
//!     curl localhost:3000/members/ann/journal

use duality::schemars::{self, JsonSchema};
use duality::{BusinessRule, EventSourced, Key, Keys, Root, Service, Settings};
use serde::{Deserialize, Serialize};

#[derive(Default, Serialize, Deserialize, JsonSchema)]
struct Member {
    points: u64,
}

#[derive(Serialize, Deserialize, JsonSchema)]
enum Command {
    Join,
    Earn { points: u32 },
    Redeem { points: u32 },
}

#[derive(Serialize, Deserialize, JsonSchema)]
enum Event {
    MemberJoined,
    PointsEarned { points: u32 },
    PointsRedeemed { points: u32 },
}

#[derive(Debug, PartialEq, Serialize, JsonSchema, thiserror::Error)]
enum Rule {
    #[error("{member} has joined already")]
    AlreadyJoined { member: Key },
    #[error("{member} has {available} points, fewer than {points}")]
    NotEnoughPoints { member: Key, available: u64, points: u32 },
}

impl BusinessRule for Rule {}

impl EventSourced for Member {
    const NAME: &'static str = "members";
    const KEYS: Keys = Keys::Text;
    const CREATE_COMMAND: &'static str = "Join";

    type Command = Command;
    type Event = Event;
    type Error = Rule;

    fn handle(root: &mut Root<'_, Self>, command: Command) -> Result<(), Rule> {
        let member = root.key().clone();
        let event = match (root.state(), command) {
            (None, _) => Event::MemberJoined,
            (Some(_), Command::Join) => return Err(Rule::AlreadyJoined { member }),
            (Some(_), Command::Earn { points }) => Event::PointsEarned { points },
            (Some(&Self { points: available }), Command::Redeem { points }) if available < u64::from(points) => {
                return Err(Rule::NotEnoughPoints { member, available, points });
            }
            (Some(_), Command::Redeem { points }) => Event::PointsRedeemed { points },
        };
        root.record(event);
        Ok(())
    }

    fn apply(state: Option<Self>, event: &Event) -> Option<Self> {
        let Self { points: had } = state.unwrap_or_default();
        let points = match *event {
            Event::MemberJoined => had,
            Event::PointsEarned { points } => had + u64::from(points),
            Event::PointsRedeemed { points } => had - u64::from(points),
        };
        Some(Self { points })
    }
}

fn main() -> std::process::ExitCode {
    Service::new().event_sourced::<Member>().run(Settings::parse())
}

#[test]
fn points_are_redeemed_once() {
    use duality::testing::{KEY, given, key};
    given::<Member>([Event::MemberJoined, Event::PointsEarned { points: 50 }])
        .when(Command::Redeem { points: 30 })
        .then([Event::PointsRedeemed { points: 30 }])
        .then_patch(serde_json::json!({"points":20}))
        .when(Command::Redeem { points: 30 })
        .then_fails(Rule::NotEnoughPoints { member: key(KEY), available: 20, points: 30 })
        .when(Command::Join)
        .then_fails(Rule::AlreadyJoined { member: key(KEY) });
}
