#!/usr/bin/env bash
# No crate that ships may build C or C++: fails on the build helpers that do, in the trees of the library and the binary.
set -euo pipefail
cd "$(dirname "$0")/.."
for package in tiny-t5 tiny-t5-cli; do
    tree=$(cargo tree --package "$package" --edges normal,build --prefix none --format '{p}')
    if found=$(grep -E '^(cc|cmake|bindgen|autotools|nasm-rs|[a-z0-9_-]+-sys) ' <<<"$tree" | grep -vE '^(js-sys|web-sys|windows-sys|linux-raw-sys) '); then
        echo "$package builds C or C++ through:"
        echo "$found"
        exit 1
    fi
    echo "$package: $(sort -u <<<"$tree" | wc -l) crates, none of which builds C or C++"
done
