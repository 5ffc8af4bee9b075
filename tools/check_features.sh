#!/usr/bin/env bash
# The library's features in combination. Without an argument: the five that matter pass their tests; `quick` type-checks these five;
# `check` type-checks every combination; `all` tests every one.
set -euo pipefail
cd "$(dirname "$0")/.."
mode=${1:-test}
case $mode in
test | quick) sets=("" tokenizer mmap,tokenizer mmap,rayon,tokenizer mmap,rayon,tokenizer,embedded) ;;
check | all)
    names=(tokenizer rayon mmap embedded)
    sets=()
    for ((set = 0; set < 1 << ${#names[@]}; set++)); do
        features=()
        for ((i = 0; i < ${#names[@]}; i++)); do
            ((set >> i & 1)) && features+=("${names[i]}")
        done
        sets+=("$(IFS=,; echo "${features[*]:-}")")
    done
    ;;
*) echo "found $mode, expected nothing, quick, check or all"; exit 2 ;;
esac
for features in "${sets[@]}"; do
    echo "features: ${features:-none}"
    case $mode in
    quick | check) cargo check --quiet --package tiny-t5 --no-default-features --features "$features" --all-targets ;;
    *) cargo test --quiet --package tiny-t5 --no-default-features --features "$features" ;;
    esac
done
