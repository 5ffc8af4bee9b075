#!/usr/bin/env bash
# Memory and threads under tools that see more than tests do. Without an argument all of them, one after the other:
#
#   address [CRATE...]   AddressSanitizer over the tests of all crates, the binary that they start included
#   memcheck [TEST...]   valgrind's memcheck over the goldens, AVX2
#   loom                 a model of the worker region in every order
#
# Needs valgrind for the second. Fails where one of them reports anything.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-$PWD/target}/sanitize

# cargo test, with dependencies as they are built fastest: the tests spend their time in our crates.
cargo_test() {
    CARGO_TARGET_DIR=$target CARGO_PROFILE_TEST_DEBUG=line-tables-only cargo test \
        --config 'profile.test.package."*".opt-level=0' --config 'profile.test.package."*".debug=0' "$@"
}

address() {
    # Our crates are instrumented and their dependencies are not. With names of crates as arguments, only those.
    # Not run: tests that limit addresses, of which the sanitizer reserves terabytes, and those that bound time or memory.
    local crates=(--workspace --features tiny-t5/embedded) crate
    if [ $# -gt 0 ]; then
        crates=()
        for crate; do crates+=(--package "$crate"); done
    fi
    RUSTC_WORKSPACE_WRAPPER=$PWD/tools/rustc/address.sh cargo_test "${crates[@]}" --tests --no-fail-fast -- \
        --skip little_memory_gives_the_answer_or_an_error --skip weights_that_do_not_fit_the_memory_are_an_error \
        --skip hostile_folders_take_little_memory_and_time --skip cli_generate_over_a_pipe_takes_constant_memory \
        --skip cli_report_writes_one_page_that_loads_nothing
}

memcheck() {
    # The test's program, by cargo's messages. Arguments: names of its tests.
    local program
    program=$(CARGO_TARGET_DIR=$target cargo test --no-run --message-format json --package tiny-t5 --features embedded --test goldens 2>/dev/null |
        sed -n 's/.*"profile":{[^}]*"test":true}.*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)
    TINY_T5_ISA=avx2 valgrind --tool=memcheck --quiet --error-exitcode=9 "$program" --test-threads 1 "$@"
}

loom() {
    LOOM_MAX_PREEMPTIONS=3 CARGO_TARGET_DIR=$target cargo test --release --manifest-path tools/loom/Cargo.toml
}

case ${1:-all} in
all) for tool in address memcheck loom; do echo "== $tool"; "$tool"; done ;;
address | memcheck | loom) "$@" ;;
*) echo "found $1, expected address, memcheck or loom"; exit 2 ;;
esac
