//! A model of several services ("nodes") on one record in `PostgreSQL`, and a search of everything that can happen to them.
//!
//! Each node decides a batch of commands from its cache, and sends it as one statement that does nothing unless the record
//! is as the node knows it. There is no leader, no lease and no clock. The model has what can go wrong with that: two nodes
//! write at once; a statement is executed long after its node has lost the connection; an answer is lost; a node crashes; a
//! server ends a transaction; maintenance changes rows; a standby that lacks the last commits is promoted; a dump is
//! restored; the same command comes twice. The search tries all orders of these, within bounds.
//!
//! Read [`record`], [`node`] and [`consumer`] first: what they do is what the code has to do. [`remedies`] has the rules that
//! keep the record whole, [`properties`] what must always be true, [`steps`] what can happen. The tests below say that
//! nothing goes wrong with all remedies, and what goes wrong without each.
//!
//! `cargo test --test model -- --nocapture` prints the number of states and the ways to what goes wrong.
//! `DUALITY_CASES=1000`, which CI sets, searches within larger bounds.
//!
//! What the model does not have:
//!
//! - SQL. That a statement sees one snapshot, compares a row as it is when it gets it, and is executed at most once, is taken
//!   from `PostgreSQL`; so is that its timeline is a new one as soon as a promoted standby can be written.
//! - Batches of several commands, sizes, time, and pages of a catch-up. A consumer is reset in one step.
//! - Two servers at a time. A primary that lives on beside its promoted standby has to be fenced by others.
//! - A random token or epoch that comes twice.
//! - Progress: a search without time finds what may happen, and that nothing gets stuck, but not how long it takes.

#![expect(clippy::panic, clippy::print_stdout, reason = "a failing test panics and prints")]

mod consumer;
mod node;
mod properties;
mod record;
mod remedies;
mod search;
mod steps;
mod world;

use properties::{ALL, Cluster, DENSE, EPOCHS, EVENTS, EXACT, KEPT, NOT_DONE, ONCE, ONE_CONTENT, STATE};
use record::Command::{Change, Refusal};
use record::Fork;
use remedies::{Remedies, Remedy};
use search::{Found, search};
use world::{Bounds, Consumers};

/// Two nodes, each with a command. Tests name what they add.
const TWO_NODES: Bounds = Bounds {
    nodes: 2,
    requests: &[Change(0), Change(1)],
    losses: 0,
    crashes: 0,
    registrations: 0,
    prunes: 0,
    forks: 0,
    kinds: &[],
    consumers: Consumers::None,
};

/// All that can be noticed.
const ANY_FORK: &[Fork] = &[Fork::Promotion, Fork::OtherCluster, Fork::OtherDatabase, Fork::CleanRestore];

const PROMOTED: Bounds = Bounds { forks: 1, kinds: &[Fork::Promotion], ..TWO_NODES };

/// Searches with all remedies. `larger`: the bounds in CI. `least`: the number of states that there must be, so that the
/// search is of something.
#[track_caller]
fn assert_nothing_goes_wrong(bounds: Bounds, larger: Bounds, least: usize) {
    let cases = std::env::var("DUALITY_CASES").map_or(100, |text| text.parse().expect("DUALITY_CASES is a number"));
    let bounds = if cases < 1000 { bounds } else { larger };
    let Found { states, depth, counterexample } =
        search(&Cluster { bounds, remedies: Remedies { without: None }, properties: ALL });
    println!("{states} states, depth {depth}");
    if let Some(found) = counterexample {
        panic!("not true: {}\n{}", found.violated, found.steps.join("\n"));
    }
    assert!(states > least, "{states} states");
}

/// Searches for a violation of a property without a remedy, and with it: then there must be none.
#[track_caller]
fn assert_needed(remedy: Remedy, property: &'static str, bounds: Bounds) {
    assert_nothing_goes_wrong(bounds, bounds, 100);
    let without = Remedies { without: Some(remedy) };
    let Found { states, depth, counterexample } =
        search(&Cluster { bounds, remedies: without, properties: &[property] });
    let Some(found) = counterexample else { panic!("nothing goes wrong without it in {states} states") };
    println!(
        "without it, after {states} states, at depth {depth}: not true: {property}\n  {}",
        found.steps.join("\n  ")
    );
}

#[test]
fn three_nodes_that_write_at_once_do_everything_once() {
    let bounds = Bounds { nodes: 3, requests: &[Change(0), Change(1), Change(2)], losses: 1, crashes: 1, ..TWO_NODES };
    assert_nothing_goes_wrong(bounds, Bounds { losses: 2, registrations: 1, ..bounds }, 10_000);
}

#[test]
fn a_command_that_is_repeated_at_another_node_is_done_once() {
    let requests = &[Change(0), Change(1), Change(0)];
    let bounds = Bounds { requests, losses: 2, crashes: 1, registrations: 1, ..TWO_NODES };
    assert_nothing_goes_wrong(bounds, Bounds { prunes: 1, ..bounds }, 30_000);
}

#[test]
fn a_stored_answer_that_makes_no_revision_is_stored_once() {
    let requests = &[Change(0), Refusal(1), Refusal(1)];
    let bounds = Bounds { requests, losses: 1, crashes: 1, prunes: 1, ..TWO_NODES };
    assert_nothing_goes_wrong(bounds, Bounds { losses: 2, registrations: 1, ..bounds }, 20_000);
}

#[test]
fn a_promotion_or_a_restore_begins_an_epoch_from_where_it_forks() {
    let bounds = Bounds { losses: 1, crashes: 1, kinds: ANY_FORK, ..PROMOTED };
    let requests = &[Change(0), Change(1), Change(0)];
    assert_nothing_goes_wrong(bounds, Bounds { requests, ..bounds }, 10_000);
}

#[test]
fn a_restore_may_bring_back_what_a_promotion_has_lost() {
    let bounds = Bounds { forks: 2, kinds: ANY_FORK, ..PROMOTED };
    assert_nothing_goes_wrong(bounds, Bounds { losses: 1, ..bounds }, 30_000);
}

#[test]
fn consumers_at_or_below_a_fork_go_on_and_others_start_again() {
    let bounds = Bounds { losses: 1, kinds: ANY_FORK, consumers: Consumers::One, ..PROMOTED };
    assert_nothing_goes_wrong(bounds, Bounds { forks: 2, kinds: &[Fork::Promotion], ..bounds }, 30_000);
}

#[test]
fn a_snapshot_of_a_disk_is_noticed_by_nobody_and_needs_a_new_epoch() {
    let bounds = Bounds { losses: 1, consumers: Consumers::One, ..PROMOTED };
    let remedies = Remedies { without: None };
    let unnoticed = Bounds { kinds: &[Fork::DiskSnapshot], ..bounds };
    let found = search(&Cluster { bounds: unnoticed, remedies, properties: &[ONE_CONTENT] });
    assert!(found.counterexample.is_some(), "{} states", found.states);
    let with_epoch = Bounds { kinds: &[Fork::DiskSnapshotAndNewEpoch], ..bounds };
    assert_nothing_goes_wrong(with_epoch, with_epoch, 5_000);
}

#[test]
fn what_the_model_is_about_does_happen() {
    let bounds = Bounds { losses: 1, prunes: 1, consumers: Consumers::One, ..PROMOTED };
    for event in EVENTS {
        let found = search(&Cluster { bounds, remedies: Remedies { without: None }, properties: &[event] });
        assert!(found.counterexample.is_some(), "always in {} states: {event}", found.states);
    }
}

#[test]
fn without_the_token_two_nodes_write_the_same_revision() {
    assert_needed(Remedy::Token, DENSE, Bounds { losses: 1, ..TWO_NODES });
}

#[test]
fn without_the_token_a_command_is_done_twice() {
    assert_needed(Remedy::Token, ONCE, Bounds { requests: &[Change(0), Change(1), Change(0)], ..TWO_NODES });
}

#[test]
fn without_the_timeline_a_promoted_standby_is_written_in_the_old_epoch() {
    assert_needed(Remedy::Timeline, ONE_CONTENT, PROMOTED);
}

#[test]
fn without_the_timeline_a_statement_is_executed_that_was_answered_as_not_done() {
    assert_needed(Remedy::Timeline, NOT_DONE, Bounds { losses: 1, ..PROMOTED });
}

#[test]
fn without_the_cluster_a_restored_dump_is_written_in_the_old_epoch() {
    assert_needed(Remedy::System, ONE_CONTENT, Bounds { kinds: &[Fork::OtherCluster], ..PROMOTED });
}

#[test]
fn without_the_database_its_copy_is_written_in_the_old_epoch() {
    assert_needed(Remedy::Database, ONE_CONTENT, Bounds { kinds: &[Fork::OtherDatabase], ..PROMOTED });
}

#[test]
fn without_the_table_a_restore_into_the_same_database_is_written_in_the_old_epoch() {
    assert_needed(Remedy::Table, ONE_CONTENT, Bounds { kinds: &[Fork::CleanRestore], ..PROMOTED });
}

#[test]
fn a_batch_that_is_decided_under_the_lock_has_to_compare_the_identity_too() {
    assert_needed(Remedy::LockedBatchComparesIdentity, ONE_CONTENT, PROMOTED);
}

#[test]
fn without_a_new_token_an_epoch_does_not_keep_out_what_was_decided_before_it() {
    assert_needed(Remedy::EpochSetsToken, EPOCHS, PROMOTED);
}

#[test]
fn without_a_new_token_of_maintenance_a_batch_is_written_by_an_old_rule() {
    assert_needed(Remedy::MaintenanceSetsToken, STATE, Bounds { registrations: 1, ..TWO_NODES });
}

#[test]
fn maintenance_that_reads_before_it_has_the_row_undoes_a_write() {
    assert_needed(Remedy::MaintenanceTakesRowFirst, STATE, Bounds { registrations: 1, ..TWO_NODES });
}

#[test]
fn a_cache_that_outlives_its_token_is_wrong() {
    assert_needed(Remedy::OtherTokenDropsCache, STATE, Bounds { registrations: 1, ..TWO_NODES });
}

#[test]
fn without_the_row_an_unknown_batch_is_called_not_done_while_a_backend_has_it() {
    assert_needed(Remedy::RowBeforeLook, NOT_DONE, Bounds { losses: 1, ..TWO_NODES });
}

#[test]
fn without_its_token_an_unknown_batch_is_taken_for_an_equal_one() {
    assert_needed(Remedy::LookForToken, KEPT, Bounds { losses: 1, ..TWO_NODES });
}

#[test]
fn without_a_new_token_a_late_statement_does_what_was_answered_as_not_done() {
    assert_needed(Remedy::LookSetsToken, NOT_DONE, Bounds { losses: 1, ..TWO_NODES });
}

#[test]
fn an_unknown_batch_whose_row_may_be_pruned_stays_unknown() {
    assert_needed(Remedy::PrunedIsUnknown, NOT_DONE, Bounds { losses: 1, prunes: 1, ..TWO_NODES });
}

#[test]
fn a_batch_without_a_revision_is_not_found_if_it_is_pruned_by_its_last() {
    let requests = &[Change(0), Refusal(1)];
    assert_needed(Remedy::PrunedByFirstRevision, NOT_DONE, Bounds { requests, losses: 1, prunes: 1, ..TWO_NODES });
}

#[test]
fn an_unknown_batch_of_an_earlier_epoch_stays_unknown() {
    assert_needed(Remedy::OtherEpochIsUnknown, NOT_DONE, Bounds { losses: 1, ..PROMOTED });
}

#[test]
fn an_unknown_batch_is_not_looked_for_on_a_server_with_another_identity() {
    assert_needed(Remedy::LookComparesIdentity, NOT_DONE, Bounds { losses: 1, ..PROMOTED });
}

#[test]
fn a_stream_that_goes_on_in_another_epoch_sends_what_does_not_fit() {
    let requests = &[Change(0), Change(1), Change(2)];
    assert_needed(Remedy::StreamsCompareEpochs, EXACT, Bounds { requests, consumers: Consumers::One, ..PROMOTED });
}
