//! The program with the shipped aggregates.

use std::process::ExitCode;

use duality::{Settings, aggregates};

fn main() -> ExitCode {
    aggregates::shipped().run(Settings::parse())
}
