#!/usr/bin/env bash
# Lines that the tests run, of the checkpoint crate and of the decoding code; fails where either is below 90 %. `tools/coverage.sh html`
# writes the page of every line into the target folder instead.
#
# Needs cargo-llvm-cov, and llvm-cov and llvm-profdata of the compiler's LLVM (rustup's component llvm-tools, or Debian's llvm-NN).
set -euo pipefail
cd "$(dirname "$0")/.."
version=$(rustc -vV | sed -n 's/LLVM version: \([0-9]*\).*/\1/p')
if command -v "llvm-cov-$version" >/dev/null; then
    export LLVM_COV=llvm-cov-$version LLVM_PROFDATA=llvm-profdata-$version
fi
cover=(cargo llvm-cov --package tiny-t5-checkpoint --package tiny-t5 --features tiny-t5/embedded --lib --tests)
if [ "${1:-}" = html ]; then
    "${cover[@]}" --html
    exit
fi
"${cover[@]}" --json --output-path "${TMPDIR:-/tmp}/coverage.json"
python3 - "${TMPDIR:-/tmp}/coverage.json" <<'END'
import json, re, sys

parts = {"checkpoint/src": [0, 0], "tiny-t5/src/generate": [0, 0]}
for file in json.load(open(sys.argv[1]))["data"][0]["files"]:
    part = next((part for part in parts if f"crates/{part}/" in file["filename"]), None)
    # The tests beside the code are not what is measured.
    if part is None or file["filename"].endswith("/tests.rs"):
        continue
    lines = file["summary"]["lines"]
    parts[part][0] += lines["covered"]
    parts[part][1] += lines["count"]
    print(f"{lines['percent']:6.2f} %  {lines['count'] - lines['covered']:4} of {lines['count']:4} not run  "
          + re.sub(".*/crates/", "", file["filename"]))
for part, (covered, count) in parts.items():
    print(f"{100 * covered / count:6.2f} %  {part}")
sys.exit(any(covered < 0.9 * count for covered, count in parts.values()))
END
