#!/usr/bin/env bash
# The promises on PostgreSQL: the same tests as on SQLite, without those of tests/promises/sqlite_only.txt, and of
# tests/promises/on_a_server_anyway.txt, on a private server that the tests start and stop; then what docs/scaling.md shows.
# Arguments are those of the tests, such as a name.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v psql >/dev/null || ! { command -v initdb >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null; }; then
    echo 'PostgreSQL is not installed: the promises are NOT TESTED on it'
    [ "${DUALITY_REQUIRE_CLIENTS-}" != 1 ]
    exit
fi

skipped=()
while read -r name _; do
    [[ $name == '' || $name == '#'* ]] || skipped+=(--skip "$name")
done < <(cat tests/promises/sqlite_only.txt tests/promises/on_a_server_anyway.txt)

DUALITY_TEST_ENGINE=postgres cargo test --locked --quiet --test promises -- "${skipped[@]}" "$@"
[ $# -gt 0 ] || scripts/scaling.py
