//! Every promise of the wire contract, through the front door: a real server on a free port, a real database file, real
//! sockets.

mod harness;

mod convergence;
mod durability;
mod errors;
mod feeds;
mod house;
mod migrations;
mod slow_clients;
mod starting;
mod stopping;
mod tables;
mod whole_collections;
mod writes;
