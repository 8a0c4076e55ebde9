#!/usr/bin/env python3
"""What scripts/check.sh takes from `cargo metadata`, so that it need not be written twice.

manifest.py features      prints the features of this crate, one a line, without `default`
manifest.py rust-version  fails if a dependency needs a newer Rust than Cargo.toml says
"""

import json
import subprocess
import sys


def metadata(*arguments):
    command = ["cargo", "metadata", "--format-version", "1", "--locked", *arguments]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def features():
    for feature in metadata("--no-deps")["packages"][0]["features"]:
        if feature != "default":
            print(feature)


def rust_version():
    def number(package):
        return tuple(int(part) for part in (package["rust_version"] + ".0.0").split(".")[:3])

    host = subprocess.run(["rustc", "--print", "host-tuple"], stdout=subprocess.PIPE, check=True, text=True).stdout
    # Of this platform only: a build has downloaded these, so that no network is needed.
    found = metadata("--filter-platform", host.strip())
    packages = {package["id"]: package for package in found["packages"]}
    own = packages.pop(found["resolve"]["root"])
    stated = [package for package in packages.values() if package["rust_version"]]
    newest = max(stated, key=number)
    print(f"Cargo.toml says {own['rust_version']}; the newest that one of {len(stated)} dependencies needs is "
          f"{newest['rust_version']} ({newest['name']}); {len(packages) - len(stated)} more do not say")
    if number(newest) > number(own):
        sys.exit("rust-version in Cargo.toml is too low")


{"features": features, "rust-version": rust_version}[sys.argv[1]]()
