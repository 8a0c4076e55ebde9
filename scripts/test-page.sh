#!/usr/bin/env bash
# Drives the service's page, /follow.js and the JavaScript of the README and docs/ in Chromium and Node, with nginx where
# it matters. DUALITY_PAGE_SECONDS is how long the page meets 1,000 writes a second (10). Arguments are files of tests/page.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/steps.sh

# On some machines the program has the one name, on some the other.
DUALITY_CHROMIUM=$(command -v chromium || command -v chromium-browser || true)
missing=()
[ -n "$DUALITY_CHROMIUM" ] || missing+=(Chromium)
command -v nginx >/dev/null || missing+=(nginx)
command -v npm >/dev/null || missing+=(npm)
node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' 2>/dev/null || missing+=('Node 20 or later')
if [ ${#missing[@]} -gt 0 ]; then
    printf 'not installed, so the page is NOT TESTED: %s\n' "${missing[@]}"
    [ "${DUALITY_REQUIRE_CLIENTS-}" != 1 ]
    exit
fi

target=${CARGO_TARGET_DIR:-target}
DUALITY_PAGE_TOOLS=$PWD/target/tools/page
if ! cmp -s tests/page/package-lock.json "$DUALITY_PAGE_TOOLS/installed"; then
    step 'install playwright-core and axe-core'
    mkdir -p "$DUALITY_PAGE_TOOLS"
    cp tests/page/package.json tests/page/package-lock.json "$DUALITY_PAGE_TOOLS"
    npm ci --prefix "$DUALITY_PAGE_TOOLS" --ignore-scripts --no-audit --no-fund --silent
    cp tests/page/package-lock.json "$DUALITY_PAGE_TOOLS/installed"
fi

if [ -z "${DUALITY_BINARY-}" ]; then
    step 'the release build'
    cargo build --release --quiet
    DUALITY_BINARY=$target/release/duality
fi
DUALITY_BINARY=$(realpath "$DUALITY_BINARY")
# Looked at by people; not compared.
DUALITY_SCREENSHOTS=$(realpath "$target")/page
mkdir -p "$DUALITY_SCREENSHOTS"
export DUALITY_CHROMIUM DUALITY_PAGE_TOOLS DUALITY_BINARY DUALITY_SCREENSHOTS

step 'the page, /follow.js and the documents'
tests=("$@")
[ $# -gt 0 ] || tests=(tests/page/*.test.mjs)
# One file after the other: each starts several processes, and one of them measures.
node --test --test-concurrency=1 --test-reporter=spec "${tests[@]}"
