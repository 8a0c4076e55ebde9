#!/usr/bin/env bash
# What takes longer than CI may take, for the night: ten times the cases of the property tests and ten times the kills
# that CI runs, on the optimised program, and all benchmarks.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/steps.sh

# CI sets a tenth of both (.ci/run); without them, the tests run a tenth of that.
export DUALITY_CASES=${DUALITY_CASES:-10000} DUALITY_KILLS=${DUALITY_KILLS:-200}
export DUALITY_HOSTILE_SECONDS=${DUALITY_HOSTILE_SECONDS:-300}
# On a disk, which other runs do not wait for.
export TMPDIR=${TMPDIR:-/tmp}

step "all tests, with DUALITY_CASES=$DUALITY_CASES and DUALITY_KILLS=$DUALITY_KILLS"
cargo test --locked --release
if grep -q '^default = ' Cargo.toml; then
    step 'all tests, without the default features'
    cargo test --locked --release --no-default-features
fi
step 'the clients, with 60 random histories'
DUALITY_JS_CASES=60 scripts/test-clients.sh
step "the consumers of a NATS stream, with $DUALITY_CASES operations"
scripts/test-messaging.sh
step 'the page, with a minute of 1,000 writes a second'
DUALITY_PAGE_SECONDS=60 scripts/test-page.sh
step benchmarks
cargo bench --locked --bench speed
