#!/usr/bin/env bash
# Everything that has to hold before a change is pushed; CI runs the same.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*"; }

step formatted
cargo fmt --check
step 'no warnings'
cargo clippy --all-targets --quiet -- -D warnings
cargo clippy --bins --quiet -- -D warnings
step 'one version of each dependency that is linked'
# Proc macros and build scripts bring their own parsers; those cost build time only, and are not ours to choose.
twice=$(cargo tree --duplicates --edges normal,no-proc-macro --depth 0 | grep -E '^[a-z]' || true)
[ -z "$twice" ] || { echo "$twice"; exit 1; }
step 'tests, examples and benches'
# The schema is compared with what the diesel CLI prints in here, where it is installed.
cargo test --quiet
cargo build --examples --benches --quiet
step documentation
RUSTDOCFLAGS='-D warnings' cargo doc --no-deps --quiet
step 'the tutorial, byte for byte'
scripts/demo.sh
step 'what the README shows'
python3 scripts/readme.py
step 'all is well'
