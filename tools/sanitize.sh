#!/usr/bin/env bash
# Memory and threads under tools that see more than tests do. Without an argument all of them, one after the other:
#
#   address   AddressSanitizer over the tests of all crates, the binary that they start included
#   memcheck  valgrind's memcheck over the goldens, AVX2
#   loom      a model of the worker region in every order
#
# Needs a nightly toolchain for the first and valgrind for the second. Fails where one of them reports anything.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-$PWD/target}/sanitize

# The test program of a package that cargo has just built, by its messages.
test_program() {
    cargo test --no-run --message-format json "$@" 2>/dev/null |
        sed -n 's/.*"profile":{[^}]*"test":true}.*"executable":"\([^"]*\)".*/\1/p' | tail -n 1
}

address() {
    # A sanitizer reserves terabytes of addresses, so tests that limit them cannot run.
    CARGO_TARGET_DIR=$target CARGO_PROFILE_TEST_DEBUG=line-tables-only RUSTFLAGS=-Zsanitizer=address \
        cargo +nightly test --target "$(rustc -vV | sed -n 's/host: //p')" --workspace --features tiny-t5/embedded \
        --lib --bins --tests --no-fail-fast -- \
        --skip little_memory_gives_the_answer_or_an_error --skip weights_that_do_not_fit_the_memory_are_an_error
}

memcheck() {
    local program
    program=$(CARGO_TARGET_DIR=$target test_program --package tiny-t5 --features embedded --test goldens)
    TINY_T5_ISA=avx2 valgrind --tool=memcheck --quiet --error-exitcode=9 "$program" --test-threads 1
}

loom() {
    LOOM_MAX_PREEMPTIONS=3 CARGO_TARGET_DIR=$target cargo test --release --manifest-path tools/loom/Cargo.toml
}

[ $# -gt 0 ] || set -- address memcheck loom
for tool; do
    case $tool in
    address | memcheck | loom) echo "== $tool"; "$tool" ;;
    *) echo "found $tool, expected address, memcheck or loom"; exit 2 ;;
    esac
done
