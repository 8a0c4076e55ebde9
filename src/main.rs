//! The command line.

use std::process::ExitCode;

use clap::Parser as _;
use duality::{Settings, collections};

fn main() -> ExitCode {
    collections::shipped().run(Settings::parse())
}
