#!/usr/bin/env bash
# Runs the tutorial of the README against a fresh service, and fails if a byte of an answer or an event differs.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo build --release --quiet
directory=$(mktemp -d)
trap 'kill "${service:-}" 2>/dev/null || true; rm -rf "$directory"' EXIT
"${CARGO_TARGET_DIR:-target}/release/duality" --listen 127.0.0.1:0 --database "$directory/demo.db" 2>"$directory/log" &
service=$!
for _ in $(seq 100); do
    url=$(sed -n 's/.*listening on \(http:.*\)/\1/p' "$directory/log")
    [ -n "$url" ] && break
    sleep 0.05
done
[ -n "$url" ] || { cat "$directory/log"; exit 1; }

failed=0
# expect WHAT EXPECTED ACTUAL
expect() {
    if [ "$2" != "$3" ]; then
        printf 'DIFFERS: %s\n  expected: %s\n  got:      %s\n' "$1" "$2" "$3"
        failed=1
    fi
}

epoch=$(curl -sI "$url/persons" | tr -d '\r' | sed -n 's/^x-epoch: //p')
curl -sN "$url/person-events" >"$directory/persons" &
curl -sN "$url/location-events" >"$directory/locations" &

# operation METHOD PATH BODY STATUS ANSWER REVISION: does it, and checks the answer.
operation() {
    curl -s -X "$1" ${3:+-H 'Content-Type: application/json' -d "$3"} -D "$directory/head" -o "$directory/body" "$url$2"
    expect "$1 $2: status" "$4" "$(sed -n '1s/HTTP[^ ]* \([0-9]*\).*/\1/p' "$directory/head")"
    expect "$1 $2: answer" "$5" "$(cat "$directory/body")"
    expect "$1 $2: X-Revision" "$6" "$(tr -d '\r' <"$directory/head" | sed -n 's/^x-revision: //p')"
}

# event FEED REVISION: the data of that revision's event, once it is there; `–` if a later one is there without it.
event() {
    for _ in $(seq 100); do
        if grep -qx "id: $epoch.$2" "$directory/$1"; then
            grep -x -B1 "id: $epoch.$2" "$directory/$1" | sed -n 's/^data: //p'
            return
        fi
        grep -q "^id: $epoch.[$(($2 + 1))-9]" "$directory/$1" && break
        sleep 0.02
    done
    echo –
}

operation POST /persons '{"name":"Ann","city":"Rome"}' 201 '{"name":"Ann","city":"Rome"}' 1
operation POST /persons '{"name":"Bob"}' 201 '{"name":"Bob"}' 2
operation PATCH /persons/2 '{"city":"Rome"}' 200 '{"name":"Bob","city":"Rome"}' 3
operation PATCH /persons/1 '{"city":null}' 200 '{"name":"Ann"}' 4
operation DELETE /persons/2 '' 204 '' 5

row='%-2s %-46s %-9s %-40s %s\n'
# shellcheck disable=SC2059
printf "$row" '#' operation revision person-events location-events
while IFS='|' read -r number operation person location; do
    got_person=$(event persons "$number")
    got_location=$(event locations "$number")
    # shellcheck disable=SC2059
    printf "$row" "$number" "$operation" "$number" "$got_person" "$got_location"
    expect "person event $number" "$person" "$got_person"
    expect "location event $number" "$location" "$got_location"
done <<'TABLE'
1|POST /persons {"name":"Ann","city":"Rome"}|{"1":{"name":"Ann","city":"Rome"}}|{"Rome":{"total":1}}
2|POST /persons {"name":"Bob"}|{"2":{"name":"Bob"}}|–
3|PATCH /persons/2 {"city":"Rome"}|{"2":{"city":"Rome"}}|{"Rome":{"total":2}}
4|PATCH /persons/1 {"city":null}|{"1":{"city":null}}|{"Rome":{"total":1}}
5|DELETE /persons/2|{"2":null}|{"Rome":null}
TABLE

expect 'GET /persons' '{"1":{"name":"Ann"}}' "$(curl -s "$url/persons")"
expect 'GET /locations' '{}' "$(curl -s "$url/locations")"
[ "$failed" = 0 ] && echo "as in the contract, byte for byte"
exit "$failed"
