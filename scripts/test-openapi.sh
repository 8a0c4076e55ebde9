#!/usr/bin/env bash
# Checks /openapi.json against the service that it describes: it is valid, what schemathesis makes of it is answered as it
# says, and a client that is generated from it works. DUALITY_SCHEMATHESIS_SECONDS is how long the second takes (90).
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/steps.sh

python=$PWD/target/tools/venv/bin/python
installed=$PWD/target/tools/venv/openapi-requirements.txt
not_tested() {
    printf '/openapi.json is NOT TESTED: %s\n' "$1"
    [ "${DUALITY_REQUIRE_CLIENTS-}" != 1 ]
    exit
}

if ! cmp -s tests/openapi/requirements.txt "$installed"; then
    step 'install the validator, schemathesis and the generator'
    python3 -c 'import venv, ensurepip' 2>/dev/null || not_tested 'Python has no venv'
    [ -x "$python" ] || python3 -m venv target/tools/venv
    "$python" -m pip install --quiet --disable-pip-version-check -r tests/openapi/requirements.txt ||
        not_tested 'the programs cannot be installed'
    cp tests/openapi/requirements.txt "$installed"
fi

if [ -z "${DUALITY_BINARY-}" ]; then
    step 'the release build'
    cargo build --release --quiet
    DUALITY_BINARY=${CARGO_TARGET_DIR:-target}/release/duality
fi

directory=$(mktemp -d)
# Ends the service whatever happens, and then reports the steps with the status that there was.
finish() {
    local status=$?
    set +e
    # shellcheck disable=SC2046 # one word for each process
    kill $(jobs -p) 2>/dev/null
    wait 2>/dev/null
    rm -rf "$directory"
    (exit "$status")
    report_steps
}
trap finish EXIT
"$DUALITY_BINARY" --listen 127.0.0.1:0 --database "$directory/test.db" 2>"$directory/log" &
for _ in $(seq 400); do
    address=$(grep -oE 'http://127\.0\.0\.1:[0-9]+' "$directory/log" | head -1) && break
    sleep 0.05
done
[ -n "$address" ] || { cat "$directory/log"; exit 1; }

step 'openapi-spec-validator'
curl -sf -o "$directory/openapi.json" "$address/openapi.json"
"$python" -m openapi_spec_validator "$directory/openapi.json"

step 'schemathesis'
SCHEMATHESIS_HOOKS=$PWD/tests/openapi/hooks.py "$python" -m schemathesis.cli \
    --config-file tests/openapi/schemathesis.toml run "$address/openapi.json" --phases examples,coverage,fuzzing \
    --request-timeout 10 --max-examples 20 --continue-on-failure --output-sanitize false --warnings off \
    --max-time "${DUALITY_SCHEMATHESIS_SECONDS-90}"
# After all that, it works and has logged no failure of its own.
curl -sf -o "$directory/ready" "$address/readyz"
if grep -a ERROR "$directory/log"; then exit 1; fi

step 'a generated client'
"$python" -m openapi_python_client generate --path "$directory/openapi.json" --output-path "$directory/client" \
    --config tests/openapi/generator.yml --meta none >"$directory/generated" || { cat "$directory/generated"; exit 1; }
mv "$directory/client" "$directory/duality_client"
PYTHONPATH=$directory "$python" tests/openapi/client.py "$address"
