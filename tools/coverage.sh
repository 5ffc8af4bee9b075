#!/usr/bin/env bash
# Lines that the tests run, of the checkpoint crate and of the decoding code; fails where either is below 90 %. `tools/coverage.sh html`
# writes the page of every line into the target folder instead; `tools/coverage.sh checkpoint` is that crate by its own tests alone.
#
# Needs llvm-profdata and llvm-cov of the compiler's LLVM or a newer one (Debian's llvm-NN).
set -euo pipefail
cd "$(dirname "$0")/.."
version=$(rustc -vV | sed -n 's/LLVM version: \([0-9]*\).*/\1/p')
# The folder of sanitize.sh: the dependencies, which nothing counts, are the same.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}/sanitize CARGO_PROFILE_TEST_DEBUG=line-tables-only
out=$CARGO_TARGET_DIR/coverage
rm -rf "$out" && mkdir -p "$out"

export RUSTC_WORKSPACE_WRAPPER=$PWD/tools/rustc/coverage.sh LLVM_PROFILE_FILE=$out/%p-%m.profraw
settings=(--config 'profile.test.package."*".opt-level=0' --config 'profile.test.package."*".debug=0')
packages=(--package tiny-t5-checkpoint --package tiny-t5 --features tiny-t5/embedded)
if [ "${1:-}" = checkpoint ]; then packages=(--package tiny-t5-checkpoint); fi
programs=$(cargo test "${settings[@]}" "${packages[@]}" --lib --tests --no-run --message-format json |
    sed -n 's/.*"profile":{[^}]*"test":true}.*"executable":"\([^"]*\)".*/\1/p')
rm -f "$out"/*.profraw # of build scripts
# It bounds the time of a process, which counts lines here and parses with an unoptimised serde_json.
# A test that fails, as those with a limit of time do on a busy machine, is told at the end: the lines that it ran count.
failed=
cargo test "${settings[@]}" "${packages[@]}" --lib --tests --no-fail-fast -- --skip hostile_folders_take_little_memory_and_time ||
    failed="some tests failed, see above"
"llvm-profdata-$version" merge --sparse "$out"/*.profraw --output "$out/all.profdata"
objects=()
for program in $programs; do objects+=(--object "$program"); done
if [ "${1:-}" = html ]; then
    "llvm-cov-$version" show --format html --output-dir "$out/html" --instr-profile "$out/all.profdata" "${objects[@]}" --sources "$PWD/crates"
    exit
fi
"llvm-cov-$version" export --summary-only --instr-profile "$out/all.profdata" "${objects[@]}" --sources "$PWD/crates" > "$out/coverage.json"
python3 - "$out/coverage.json" <<'END'
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
parts = {part: lines for part, lines in parts.items() if lines[1]}
for part, (covered, count) in parts.items():
    print(f"{100 * covered / count:6.2f} %  {part}")
sys.exit(any(covered < 0.9 * count for covered, count in parts.values()))
END
if [ -n "$failed" ]; then echo "$failed"; exit 1; fi
