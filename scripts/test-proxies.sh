#!/usr/bin/env bash
# Follows a feed through nginx and HAProxy with their buffering left as it is: an event comes at once, and a stream with
# nothing to say outlives the time after which they give up on one.
set -euo pipefail
cd "$(dirname "$0")/.."
export LC_ALL=C

missing=()
for proxy in nginx haproxy; do
    command -v "$proxy" >/dev/null || missing+=("$proxy")
done
if [ ${#missing[@]} -gt 0 ]; then
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}"; } >/dev/null
fi
cargo build --release --quiet

directory=$(mktemp -d)
# nginx gives its files to a user of its own when root starts it.
chmod 755 "$directory"
trap 'kill $(jobs -p) 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$directory"' EXIT

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# within SECONDS COMMAND…: until it succeeds.
within() {
    local end=$((${EPOCHREALTIME/./} + $1 * 1000000))
    shift
    until "$@"; do
        [ "${EPOCHREALTIME/./}" -lt "$end" ] || return 1
        sleep 0.02
    done
}

# got FILE TEXT
got() { grep -qF -- "$2" "$1" 2>/dev/null; }

answers() { curl -s -o "$directory/answer" "http://127.0.0.1:$1/persons"; }

service=$(free_port)
"${CARGO_TARGET_DIR:-target}/release/duality" --listen "127.0.0.1:$service" --database "$directory/test.db" --heartbeat 1s 2>"$directory/log" &

nginx=$(free_port)
cat >"$directory/nginx.conf" <<EOF
daemon off;
pid $directory/nginx.pid;
error_log $directory/nginx.log;
events {}
http {
    access_log off;
    client_body_temp_path $directory/body;
    proxy_temp_path $directory/proxy;
    fastcgi_temp_path $directory/fastcgi;
    uwsgi_temp_path $directory/uwsgi;
    scgi_temp_path $directory/scgi;
    server {
        listen 127.0.0.1:$nginx;
        location / {
            proxy_pass http://127.0.0.1:$service;
            proxy_read_timeout 3s;
        }
    }
}
EOF
nginx -e "$directory/nginx.log" -c "$directory/nginx.conf" &

haproxy=$(free_port)
cat >"$directory/haproxy.cfg" <<EOF
defaults
    mode http
    timeout connect 3s
    timeout client 3s
    timeout server 3s
listen feeds
    bind 127.0.0.1:$haproxy
    server duality 127.0.0.1:$service
EOF
haproxy -db -q -f "$directory/haproxy.cfg" &

failed=0
# check WHAT COMMAND…
check() {
    local what=$1 start=${EPOCHREALTIME/./}
    shift
    if "$@"; then
        echo "ok: $what ($(((${EPOCHREALTIME/./} - start) / 1000)) ms)"
    else
        echo "FAILED: $what"
        failed=1
    fi
}

# arrives PROXY NAME: whether a person of this name comes within a second of its write.
arrives() {
    curl -sS --json "{\"name\":\"$2\"}" -o "$directory/answer" "http://127.0.0.1:$service/persons"
    within 1 got "$directory/$1" "$2"
}

for port in "$service" "$nginx" "$haproxy"; do
    within 10 answers "$port" || { cat "$directory"/*log; exit 1; }
done
declare -A follower
for proxy in nginx haproxy; do
    curl -sN "http://127.0.0.1:${!proxy}/person-events" >"$directory/$proxy" &
    follower[$proxy]=$!
    within 5 got "$directory/$proxy" retry || { echo "FAILED: $proxy: the stream does not begin"; exit 1; }
    check "$proxy: an event comes within a second of its write" arrives "$proxy" "first-$proxy"
done
# More than twice the 3 s after which they give up: the quiet is what is tested.
sleep 7
for proxy in nginx haproxy; do
    check "$proxy: after 7 s of quiet, the same connection still brings events" arrives "$proxy" "last-$proxy"
    # One curl is one connection, so what came, came over the first.
    check "$proxy: it is still open" kill -0 "${follower[$proxy]}"
done
exit "$failed"
