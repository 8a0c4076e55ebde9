#!/usr/bin/env bash
# The JavaScript module of web/ in Node, and the consumers in JavaScript, Python and Rust, against the real service: while it
# is killed and started again, and while they are, each copy ends as the state.
set -euo pipefail
cd "$(dirname "$0")/.."
export LC_ALL=C

node_version=$(node -p 'process.versions.node.split(".")[0]' 2>/dev/null || echo 0)
if [ "$node_version" -lt 20 ] || ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo 'Node 20 or Python 3.11 is missing: the clients are NOT TESTED'
    [ "${DUALITY_REQUIRE_CLIENTS-}" != 1 ]
    exit
fi
# Built together, the service has the features of the examples, as in `cargo test`, which has built both already.
cargo build --quiet --bins --example consumer
target=${CARGO_TARGET_DIR:-$PWD/target}/debug
export DUALITY_BINARY=${DUALITY_BINARY:-$target/duality}

node --test --test-reporter=spec clients/js/test/

. scripts/checks.sh

# A port that nobody gets while the service is down: outside the ephemeral range.
port=$(python3 - <<'EOF'
import os, socket
for port in range(20000 + os.getpid() % 10000, 32000):
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        continue
    print(port)
    break
EOF
)
url=http://127.0.0.1:$port/persons

answers() { curl -sf -o "$directory/answer" "$url"; }

start_service() {
    "$DUALITY_BINARY" --listen "127.0.0.1:$port" --database "$directory/test.db" --heartbeat 1s 2>>"$directory/log" &
    service=$!
    within 30 answers || { cat "$directory/log"; exit 1; }
}

write() { curl -sf -o "$directory/answer" --json "$1" "${@:3}" "http://127.0.0.1:$port$2"; }

# start_consumer NAME: each prints its states to a file, and stores them in another one.
start_consumer() {
    local program
    case $1 in
    node) program=(node clients/js/consumer.mjs) ;;
    python) program=(python3 clients/python/consumer.py) ;;
    rust) program=("$target/examples/consumer") ;;
    esac
    "${program[@]}" "$url" --store "$directory/$1.json" >>"$directory/$1" 2>>"$directory/$1.errors" &
    consumer[$1]=$!
}

# Whether the last line that a consumer has printed is the state of now, and exact.
is_current() {
    curl -sf "$url" >"$directory/state" && python3 - "$directory/$1" "$directory/state" <<'EOF'
import json, sys
lines = open(sys.argv[1]).read().splitlines()
state = json.load(open(sys.argv[2]))
sys.exit(not lines or json.loads(lines[-1]) != {"id": json.loads(lines[-1])["id"], "exact": True, "state": state})
EOF
}

# catches_up NAME: within 20 s; otherwise, what it has printed last.
catches_up() {
    within 20 is_current "$1" || { tail -n 3 "$directory/$1" "$directory/$1.errors"; false; }
}

# check_all WHAT: of each consumer.
check_all() {
    for name in node python rust; do check "$name: $1" catches_up "$name"; done
}

declare -A consumer
start_service
write '{"name":"Ann","city":"Rome"}' /persons
for name in node python rust; do start_consumer "$name"; done
check_all 'the copy is the state that was loaded'
write '{"name":"Bob"}' /persons
write '{"city":null}' /persons/1 -X PATCH
check_all 'the copy is the state after changes'
kill -9 "$service"
start_service
write '{"name":"Cid","spouse":1}' /persons
write '' /persons/2 -X DELETE
check_all 'the copy is the state after the service was killed'
for name in node python rust; do
    # A copy is stored within a second.
    within 10 grep -q Cid "$directory/$name.json"
    kill -9 "${consumer[$name]}"
done
write '{"name":"Dan"}' /persons
for name in node python rust; do
    : >"$directory/$name"
    start_consumer "$name"
done
check_all 'the copy is the state after the consumer was killed'
exit "$failed"
