#!/usr/bin/env bash
# Follows a feed through nginx and HAProxy with their buffering left as it is: an event comes at once, and a stream with
# nothing to say outlives the time after which they give up on one. Pages behind a proxy that rewrites the host, or that
# does TLS, can write, those of other origins cannot, and a load balancer's health check in HTTP/1.0 passes. The configuration
# that the README shows asks for a password.
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
[ -n "${DUALITY_BINARY-}" ] || cargo build --release --quiet
binary=${DUALITY_BINARY:-${CARGO_TARGET_DIR:-target}/release/duality}

. scripts/checks.sh
# nginx gives its files to a user of its own when root starts it.
chmod 755 "$directory"

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# got FILE TEXT
got() { grep -qF -- "$2" "$1" 2>/dev/null; }

answers() { curl -s -o "$directory/answer" "http://127.0.0.1:$1/persons"; }

service=$(free_port)
"$binary" --listen "127.0.0.1:$service" --database "$directory/test.db" --heartbeat 1s --host shop.example 2>"$directory/log" &

# Another one, which trusts both proxies, and lets each address have one stream.
counting=$(free_port)
"$binary" --listen "127.0.0.1:$counting" --database "$directory/counting.db" --heartbeat 1s \
    --max-sessions-per-address 1 --trusted-proxy 127.0.0.1 2>"$directory/counting.log" &

nginx=$(free_port)
nginx_counted=$(free_port)
rewriting=$(free_port)
tls=$(free_port)
secured=$(free_port)
tls_server=
if command -v openssl >/dev/null; then
    openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=shop.example -keyout "$directory/key.pem" \
        -out "$directory/cert.pem" 2>/dev/null
    tls_server="server {
        listen 127.0.0.1:$tls ssl;
        ssl_certificate $directory/cert.pem;
        ssl_certificate_key $directory/key.pem;
        location / {
            proxy_pass http://127.0.0.1:$service;
            proxy_set_header Host \$host;
        }
    }"
    echo "ann:$(openssl passwd -apr1 secret)" >"$directory/users"
    tls_server+=$(sed -n '/^```nginx$/,/^```$/{/^```/d;p}' README.md | sed -e "s|listen 443|listen 127.0.0.1:$secured|" \
        -e "s|/etc/nginx/shop.pem|$directory/cert.pem|" -e "s|/etc/nginx/shop.key|$directory/key.pem|" \
        -e "s|/etc/nginx/shop.users|$directory/users|" -e "s|127.0.0.1:3000|127.0.0.1:$service|")
fi
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
    server {
        listen 127.0.0.1:$rewriting;
        location / {
            proxy_pass http://127.0.0.1:$service;
            proxy_set_header Host shop.example;
        }
    }
    server {
        listen 127.0.0.1:$nginx_counted;
        location / {
            proxy_pass http://127.0.0.1:$counting;
            proxy_set_header X-Forwarded-For \$remote_addr;
            proxy_set_header Forwarded "";
        }
    }
    $tls_server
}
EOF
nginx -e "$directory/nginx.log" -c "$directory/nginx.conf" &

haproxy=$(free_port)
haproxy_counted=$(free_port)
cat >"$directory/haproxy.cfg" <<EOF
defaults
    mode http
    timeout connect 3s
    timeout client 3s
    timeout server 3s
listen feeds
    bind 127.0.0.1:$haproxy
    option httpchk GET /readyz HTTP/1.0
    server duality 127.0.0.1:$service check inter 200ms fall 1
listen counted
    bind 127.0.0.1:$haproxy_counted
    option forwardfor
    http-request del-header X-Forwarded-For
    http-request del-header Forwarded
    server duality 127.0.0.1:$counting
EOF
haproxy -db -q -f "$directory/haproxy.cfg" &

# arrives PROXY NAME: whether a person of this name comes within a second of its write.
arrives() {
    curl -sS --json "{\"name\":\"$2\"}" -o "$directory/answer" "http://127.0.0.1:$service/persons"
    within 1 got "$directory/$1" "$2"
}

for port in "$service" "$nginx" "$haproxy" "$counting" "$nginx_counted" "$haproxy_counted"; do
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
# status PORT ORIGIN [CURL OPTIONS]: of a write by a page of this origin.
status() {
    curl -s -o "$directory/answer" -w '%{http_code}' --json '{"name":"page"}' -H "Origin: $2" "${@:3}" "$1"
}
check "a page behind a proxy that rewrites the host can write" \
    is 201 "$(status "http://127.0.0.1:$rewriting/persons" https://shop.example)"
check "a page of another origin behind it cannot" \
    is 403 "$(status "http://127.0.0.1:$rewriting/persons" https://elsewhere.example)"
check "another name reaches nothing" \
    is 421 "$(status "http://127.0.0.1:$service/persons" https://elsewhere.example -H 'Host: elsewhere.example')"
if [ -n "$tls_server" ]; then
    resolved=(--cacert "$directory/cert.pem" --resolve "shop.example:$tls:127.0.0.1")
    check "a page behind a proxy that does TLS can write, with its Sec-Fetch-Site" \
        is 201 "$(status "https://shop.example:$tls/persons" "https://shop.example:$tls" -H 'Sec-Fetch-Site: same-origin' "${resolved[@]}")"
    check "and with the default port of its origin" \
        is 201 "$(status "https://shop.example:$tls/persons" https://shop.example "${resolved[@]}")"
    secure=("https://shop.example:$secured/persons" https://shop.example --cacert "$directory/cert.pem" --resolve
        "shop.example:$secured:127.0.0.1")
    check "as the README shows it, nobody without a password can" is 401 "$(status "${secure[@]}")"
    check "and whoever has one can" is 201 "$(status "${secure[@]}" --user ann:secret)"
else
    echo "NOT TESTED: TLS, because there is no openssl"
fi
# stream ADDRESS PORT [CURL OPTIONS]: the status of a stream from an address of this machine, which ends after a moment.
stream() { curl -s -o "$directory/answer" -w '%{http_code}' -m 1 --interface "$1" "${@:3}" "http://127.0.0.1:$2/person-events" || true; }
declare -A of_proxy=([nginx]=$nginx_counted [haproxy]=$haproxy_counted)
host=11
for proxy in nginx haproxy; do
    port=${of_proxy[$proxy]}
    curl -sN --interface "127.0.0.$host" "http://127.0.0.1:$port/person-events" >"$directory/counted-$proxy" &
    within 5 got "$directory/counted-$proxy" retry || echo "FAILED: $proxy: the stream does not begin"
    check "$proxy: a client has one stream" is 503 "$(stream "127.0.0.$host" "$port")"
    check "$proxy: whatever it sends" is 503 "$(stream "127.0.0.$host" "$port" -H 'X-Forwarded-For: 192.0.2.1' -H 'Forwarded: for=192.0.2.1')"
    check "$proxy: another client has its own" is 200 "$(stream "127.0.0.$((host + 1))" "$port")"
    host=$((host + 2))
done
check "a health check in HTTP/1.0 needs no host" \
    is 200 "$(curl -s -0 -o "$directory/answer" -w '%{http_code}' -H Host: "http://127.0.0.1:$service/readyz")"
check "HAProxy, which checks it so, still has the service" answers "$haproxy"
exit "$failed"
