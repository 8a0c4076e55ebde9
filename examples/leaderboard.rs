//! A leaderboard: a background projection of the games that were played, with one report.
//!
//! Run the first of these commands, and the others in another terminal:
//!
//!     cargo run --example leaderboard -- --database :memory:
//!     curl --json '{"player":"ann","points":50}' localhost:3000/games
//!     curl --json '{"player":"bob","points":80}' localhost:3000/games
//!     curl 'localhost:3000/reports/leaderboard?limit=3'

use diesel::prelude::*;
use duality::schemars::{self, JsonSchema};
use duality::{
    BusinessRule, Event, EventSourced, Key, Parameters, Projection, ProjectionError, Report, ReportError, Root,
    Service, Settings, Tables,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

#[derive(Serialize, Deserialize, JsonSchema)]
struct Game {
    player: Key,
    points: u32,
}

#[derive(Serialize, Deserialize, JsonSchema)]
enum Command {
    Play { player: Key, points: u32 },
}

#[derive(Serialize, Deserialize, JsonSchema)]
enum Played {
    GamePlayed { player: Key, points: u32 },
}

#[derive(Debug, Serialize, JsonSchema, thiserror::Error)]
enum Never {}
impl BusinessRule for Never {}

impl EventSourced for Game {
    const NAME: &'static str = "games";
    const CREATE_COMMAND: &'static str = "Play";
    type Command = Command;
    type Event = Played;
    type Error = Never;

    fn handle(root: &mut Root<'_, Self>, Command::Play { player, points }: Command) -> Result<(), Never> {
        if root.state().is_none() {
            root.record(Played::GamePlayed { player, points });
        }
        Ok(())
    }

    fn apply(_: Option<Self>, Played::GamePlayed { player, points }: &Played) -> Option<Self> {
        Some(Self { player: player.clone(), points: *points })
    }
}

diesel::table! {
    /// One row for each player.
    scores (player) {
        /// Who.
        player -> Text,
        /// How many, in all.
        points -> BigInt,
    }
}

struct Leaderboard;

impl Projection for Leaderboard {
    const NAME: &'static str = "leaderboard_scores";
    const COLLECTIONS: &'static [&'static str] = &["games"];
    const SETUP: &'static str = "CREATE TABLE scores (player TEXT NOT NULL PRIMARY KEY, points BIGINT NOT NULL)";
    type Sink = Tables;

    fn apply(tables: &mut Tables, event: &Event<'_>) -> Result<(), ProjectionError> {
        let Some(Played::GamePlayed { player, points }) = event.domain::<Game>()? else { return Ok(()) };
        let row = (scores::player.eq(player.as_str()), scores::points.eq(i64::from(points)));
        let sum = scores::points.eq(scores::points + i64::from(points));
        let first = diesel::insert_into(scores::table).values(row).on_conflict(scores::player);
        first.do_update().set(sum).execute(tables)?;
        Ok(())
    }

    fn reports() -> Vec<Report> {
        vec![Report { name: "leaderboard", parameters: &["limit"], read: best }]
    }
}

fn best(tables: &mut Tables, asked: &Parameters) -> Result<Value, ReportError> {
    let limit = asked.number("limit", 1..=100)?.unwrap_or(10);
    let order = (scores::points.desc(), scores::player);
    let rows: Vec<(String, i64)> = scores::table.order(order).limit(limit).load(tables)?;
    Ok(json!({ "players": rows }))
}

fn main() -> std::process::ExitCode {
    Service::new().event_sourced::<Game>().background::<Leaderboard>().run(Settings::parse())
}
