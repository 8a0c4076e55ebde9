//! The random operations and their frequency.

use proptest::prelude::*;

use super::model::Write;
use crate::events::resume::ReplayMode;

#[derive(Debug, Clone)]
pub(super) enum Begin {
    /// With the state of a GET and its cursor.
    Get,
    /// With nothing.
    Zero,
    /// With the state and the cursor of another service.
    Foreign,
    /// With a cursor from the future, as after a restore, and the state that belonged to it.
    Future,
}

#[derive(Debug, Clone)]
pub(super) enum Op {
    /// One transaction.
    Commit(Vec<Write>),
    /// The relay publishes everything.
    Publish,
    /// The relay publishes, but the worker misses the batch.
    Miss,
    /// Heartbeats.
    Tick,
    /// All change events are pruned except those of the last few revisions.
    Prune(u8),
    /// All change events and tombstones are pruned.
    Forget,
    Restart,
    /// Another database replaces this one.
    Replace,
    Begin(usize, Begin),
    /// A consumer connects with its last id.
    Connect(usize, ReplayMode),
    /// A connected consumer reads some messages.
    Read(usize, u8),
    StreamAborted(usize),
}

pub(super) fn writes() -> impl Strategy<Value = Write> {
    let city = || prop::option::weighted(0.8, 0..3_u8);
    prop_oneof![
        4 => city().prop_map(Write::Create),
        3 => (1..8_u8, city()).prop_map(|(key, city)| Write::Move(key, city)),
        1 => (1..8_u8, prop::option::of(0..2_u8)).prop_map(|(key, spouse)| Write::Marry(key, spouse)),
        1 => (1..8_u8).prop_map(Write::Replace),
        2 => (1..8_u8).prop_map(Write::Delete),
    ]
}

pub(super) fn ops(consumers: usize) -> impl Strategy<Value = Op> {
    let begin = prop_oneof![Just(Begin::Get), Just(Begin::Zero), Just(Begin::Foreign), Just(Begin::Future)];
    let history =
        prop_oneof![4 => Just(ReplayMode::Auto), 1 => Just(ReplayMode::Compact), 1 => Just(ReplayMode::Strict)];
    prop_oneof![
        8 => prop::collection::vec(writes(), 1..4).prop_map(Op::Commit),
        4 => Just(Op::Publish),
        1 => Just(Op::Miss),
        2 => Just(Op::Tick),
        2 => (0..6_u8).prop_map(Op::Prune),
        1 => Just(Op::Forget),
        1 => Just(Op::Restart),
        1 => Just(Op::Replace),
        3 => (0..consumers, begin).prop_map(|(consumer, begin)| Op::Begin(consumer, begin)),
        5 => (0..consumers, history).prop_map(|(consumer, history)| Op::Connect(consumer, history)),
        8 => (0..consumers, 1..6_u8).prop_map(|(consumer, messages)| Op::Read(consumer, messages)),
        2 => (0..consumers).prop_map(Op::StreamAborted),
    ]
}
