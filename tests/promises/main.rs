//! Every promise of the wire contract, tested end to end: a real server on a free port, a real database file and real
//! sockets.

#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a failing test panics and prints")]

mod harness;

mod architecture;
mod bookmarks;
mod carts;
mod catch_ups;
mod convergence;
mod csv_files;
mod cursors;
mod documents;
mod durability;
mod errors;
mod event_sourcing;
mod feeds;
mod full_disks;
mod health;
mod histories;
mod inline_projections;
mod journal;
mod kills;
mod law;
mod levels;
mod limits;
mod metrics;
mod migrations;
mod one_file;
mod own_aggregates;
mod own_collections;
mod own_projections;
mod pages;
mod preconditions;
mod projection_failures;
mod projection_histories;
mod projection_tasks;
mod projections;
mod real_clients;
mod refusals;
mod registrations;
mod rehydration;
mod schemas;
mod sessions;
mod shared_bodies;
mod shared_events;
mod slow_clients;
mod starting;
mod stopping;
mod tables;
mod typed_commands;
mod verifying;
mod whole_collections;
mod writes;
