#!/usr/bin/env bash
# The consumers of docs/messaging.md, in Python, JavaScript and Rust, and what else it shows, against the real service and a
# real NATS server. DUALITY_CASES is how many operations there are (300); a case in which they failed comes again with its
# DUALITY_SEED. DUALITY_NATS_SERVER is another NATS server than that of the PATH.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/steps.sh
export LC_ALL=C.UTF-8

missing=()
server=$(PATH=$PATH:/usr/sbin command -v "${DUALITY_NATS_SERVER:-nats-server}" || true)
[ -n "$server" ] || missing+=(nats-server)
command -v npm >/dev/null || missing+=(npm)
node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' 2>/dev/null || missing+=('Node 20 or later')
python3 -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || missing+=('Python 3.11 or later, with venv')
not_tested() {
    printf 'not installed, so messaging is NOT TESTED: %s\n' "$@"
    [ "${DUALITY_REQUIRE_CLIENTS-}" != 1 ] || exit 1
    exit 0
}
[ ${#missing[@]} = 0 ] || not_tested "${missing[@]}"

# With links to this checkout beside the libraries, since Node looks for these beside the file that imports them.
tools=$PWD/target/tools/messaging
pins=tests/clients/messaging
if ! cat $pins/package-lock.json $pins/requirements.txt | cmp -s - "$tools/installed"; then
    step 'install nats-py, and @nats-io/transport-node and @nats-io/jetstream'
    rm -rf "$tools"
    mkdir -p "$tools"
    cp $pins/package.json $pins/package-lock.json "$tools"
    { npm ci --prefix "$tools" --ignore-scripts --no-audit --no-fund --silent &&
        python3 -m venv "$tools/venv" &&
        "$tools/venv/bin/pip" install --quiet --disable-pip-version-check --requirement $pins/requirements.txt; } ||
        not_tested 'the packages of npm and PyPI, which cannot be fetched'
    cat $pins/package-lock.json $pins/requirements.txt >"$tools/installed"
fi
mkdir -p "$tools/clients/js" "$tools/web"
cp clients/js/follow_nats.mjs "$tools/clients/js/"
cp web/follow.js "$tools/web/"

step 'the service and the consumer in Rust'
# Built together, the service has the features of the examples, as in `cargo test`, which has built both already.
cargo build --locked --quiet --bins --example follow_nats
target=${CARGO_TARGET_DIR:-$PWD/target}/debug
binary=${DUALITY_BINARY:-$target/duality}

step 'random operations'
"$tools/venv/bin/python" $pins/random_operations.py "${DUALITY_CASES:-300}" "$binary" "$server" \
    "python=$tools/venv/bin/python clients/python/follow_nats.py" \
    "node=node $tools/clients/js/follow_nats.mjs" \
    "rust=$target/examples/follow_nats"
