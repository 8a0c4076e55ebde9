#!/usr/bin/env bash
# Everything that has to hold before a change is pushed; CI runs the same. With `--without-tests`, the tests are left out:
# CI has run them already.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/steps.sh
target=${CARGO_TARGET_DIR:-target}
PATH=$PWD/target/tools/bin:$PATH

case ${1-} in
'') tests=yes ;;
--without-tests) tests=no ;;
*) echo "usage: $0 [--without-tests]" >&2 && exit 2 ;;
esac

# The quick ones first.
step formatted
cargo fmt --check

step 'plain English'
scripts/english.py

step 'shell scripts'
if command -v shellcheck >/dev/null; then
    shellcheck --external-sources --severity=warning scripts/*.sh .ci/run
else
    echo 'shellcheck is not installed: NOT CHECKED'
    [ "${DUALITY_REQUIRE_CLIENTS-}" != 1 ]
fi

step 'the Rust that the dependencies need'
scripts/manifest.py rust-version

step 'one version of each dependency that is linked'
# Procedural macros and build scripts bring their own parsers; those cost build time only, and are not ours to choose. The
# other versions of getrandom are the one exception of deny.toml.
twice=$(cargo tree --locked --duplicates --edges normal,no-proc-macro --depth 0 2>/dev/null | grep -E '^[a-z]' | grep -vE '^getrandom v0\.[234]\.' || true)
[ -z "$twice" ] || { echo "$twice"; exit 1; }

step 'licences, versions and sources of the dependencies'
if cargo deny --version >/dev/null 2>&1; then
    checks=(licenses bans sources)
    # `cargo deny fetch db` gets the database.
    if compgen -G "${CARGO_HOME:-$HOME/.cargo}/advisory-dbs/*/.git" >/dev/null; then
        checks+=(advisories)
    else
        echo 'there is no copy of the advisory database: advisories are NOT CHECKED'
    fi
    # A build does not download the crates of other platforms.
    platforms=()
    cargo fetch --locked --quiet || platforms=(--target "$(rustc --print host-tuple)")
    cargo deny --offline --locked "${platforms[@]}" check --hide-inclusion-graph "${checks[@]}"
else
    echo 'cargo-deny is not installed: NOT CHECKED'
    [ "${DUALITY_REQUIRE_CLIENTS-}" != 1 ]
fi

step 'no warnings'
cargo clippy --locked --quiet --all-targets --all-features -- -D warnings
# Without the dev-dependencies, which switch `test-hooks` on: the default features, none, and each on its own.
cargo clippy --locked --quiet --lib --bins -- -D warnings
cargo clippy --locked --quiet --lib --bins --no-default-features -- -D warnings
for feature in $(scripts/manifest.py features); do
    cargo clippy --locked --quiet --lib --bins --no-default-features --features "$feature" -- -D warnings
done

step 'the package'
files=$(cargo package --locked --quiet --list --allow-dirty 2>/dev/null)
if grep -E '^(tests|benches|clients|scripts|\.ci)/' <<<"$files"; then
    echo 'these do not belong into the package'
    exit 1
fi
# It compiles from what it contains. `cargo package` would build it again; a check shares its dependencies with clippy.
log=$target/package.log
cargo package --locked --quiet --allow-dirty --no-verify 2>"$log" || { cat "$log"; exit 1; }
version=$(cargo pkgid)
unpacked=$target/package/unpacked
rm -rf "$unpacked"
mkdir -p "$unpacked"
tar -xf "$target/package/duality-${version##*[#@]}.crate" -C "$unpacked" --strip-components 1
CARGO_TARGET_DIR=$target cargo check --locked --quiet --lib --bins --examples --manifest-path "$unpacked/Cargo.toml"

step documentation
RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --all-features --quiet

if [ "$tests" = yes ]; then
    step tests
    # The schema is compared with what the diesel CLI prints in here, where it is installed.
    command -v diesel >/dev/null || echo 'the diesel CLI is not installed: schema.rs is NOT COMPARED with the migrations'
    cargo test --locked --quiet
fi
step 'examples and benches'
cargo build --locked --examples --benches --quiet

step 'the release build'
cargo build --locked --release --quiet
step 'the tutorial, byte for byte'
scripts/demo.sh
step 'what the README and the guides show'
python3 scripts/readme.py
