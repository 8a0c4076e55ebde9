# Sourced by the scripts that try the service with other programs: a directory for their files, and checks.
# shellcheck shell=bash disable=SC2034

# It is removed at the end, when everything that was started has ended.
directory=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$directory"' EXIT

# within SECONDS COMMAND…: until it succeeds.
within() {
    local end=$((${EPOCHREALTIME/./} + $1 * 1000000))
    shift
    until "$@"; do
        [ "${EPOCHREALTIME/./}" -lt "$end" ] || return 1
        sleep 0.05
    done
}

# The exit status of the script that sources this.
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

# is EXPECTED ACTUAL
is() { [ "$1" = "$2" ] || { echo "got $2"; false; }; }
