#!/usr/bin/env bash
# curl, undici and httpx each write and follow over TLS with a token. scripts/test-page.sh has the same for a page in Chromium.
set -euo pipefail
cd "$(dirname "$0")/.."
export LC_ALL=C

missing=()
for program in curl openssl; do
    command -v "$program" >/dev/null || missing+=("$program")
done
node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' 2>/dev/null || missing+=('Node 20 or later')
python3 -c 'import venv, ensurepip' 2>/dev/null || missing+=('Python 3 with venv')
if [ ${#missing[@]} -gt 0 ]; then
    printf 'not installed, so clients over TLS are NOT TESTED: %s\n' "${missing[@]}"
    [ "${DUALITY_REQUIRE_CLIENTS-}" != 1 ]
    exit
fi
# Built together, the service has the features of the examples, as in `cargo test`, which has built both already.
[ -n "${DUALITY_BINARY-}" ] || cargo build --quiet --bins --example consumer
binary=${DUALITY_BINARY:-${CARGO_TARGET_DIR:-$PWD/target}/debug/duality}

tools=$PWD/target/tools/tls
if ! cmp -s tests/clients/python/requirements.txt "$tools/installed"; then
    mkdir -p "$tools"
    python3 -m venv --clear "$tools/venv"
    "$tools/venv/bin/python" -m pip install --quiet --disable-pip-version-check -r tests/clients/python/requirements.txt
    cp tests/clients/python/requirements.txt "$tools/installed"
fi

. scripts/checks.sh
authority=$directory/authority.pem
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj '/CN=an authority' \
    -keyout "$directory/authority.key" -out "$authority" 2>/dev/null
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost -keyout "$directory/tls.key" \
    -out "$directory/request" 2>/dev/null
openssl x509 -req -days 1 -in "$directory/request" -CA "$authority" -CAkey "$directory/authority.key" -CAcreateserial \
    -extfile <(echo 'subjectAltName=DNS:localhost') -out "$directory/tls.pem" 2>/dev/null
chmod 600 "$directory/tls.key"

export DUALITY_TOKENS=$directory/tokens
DUALITY_TOKEN=$("$binary" token new shop --scope 'read:persons,write:persons')
"$binary" --listen 127.0.0.1:0 --database "$directory/test.db" --tls-cert "$directory/tls.pem" --tls-key "$directory/tls.key" \
    2>"$directory/log" &
within 30 grep -q 'listening on https://' "$directory/log" || { cat "$directory/log"; exit 1; }
url=https://localhost:$(sed -n 's|.*listening on https://127.0.0.1:||p' "$directory/log")

export DUALITY_TOKEN
# A header in a file is on no command line.
echo "Authorization: Bearer $DUALITY_TOKEN" >"$directory/header"
by_curl() { curl -sS --fail-with-body --cacert "$authority" --header "@$directory/header" "$@"; }
follow_by_curl() {
    by_curl -N "$url/person-events" >"$directory/events" &
    within 20 grep -q retry "$directory/events"
    by_curl --json '{"name":"curl"}' -o "$directory/answer" "$url/persons"
    within 20 grep -q '"curl"' "$directory/events"
}
check 'curl writes and follows' follow_by_curl
check 'undici writes and follows' \
    env NODE_EXTRA_CA_CERTS="$authority" timeout 60 node tests/clients/tls/undici.mjs "$url"
check 'httpx writes and follows' \
    timeout 60 "$tools/venv/bin/python" tests/clients/tls/httpx_client.py "$url" "$authority"
status() { curl -s -o "$directory/answer" -w '%{http_code}' "$@" || true; }
check 'nobody without the authority gets anything' is 000 "$(status "$url/persons")"
check 'nobody without a token reads anything' is 401 "$(status --cacert "$authority" "$url/persons")"
check 'a request without TLS gets a 400' is 400 "$(status "http://${url#https://}/persons")"
exit "$failed"
