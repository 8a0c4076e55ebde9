//! The command line.

use std::process::ExitCode;

use clap::Parser as _;
use duality::{Settings, aggregates};

fn main() -> ExitCode {
    aggregates::shipped().run(Settings::parse())
}
