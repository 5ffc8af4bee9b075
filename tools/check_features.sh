#!/usr/bin/env bash
# The library's features in combination. Without an argument: the five that matter pass all their tests; `quick`: none and each
# feature alone pass the goldens and what else they may change, built fast; `check` type-checks every combination; `all` tests every
# one.
set -euo pipefail
cd "$(dirname "$0")/.."
mode=${1:-test}
case $mode in
test) sets=("" tokenizer mmap,tokenizer mmap,rayon,tokenizer mmap,rayon,tokenizer,embedded) ;;
quick) sets=("" tokenizer rayon mmap embedded) ;;
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
    library=(--quiet --package tiny-t5 --no-default-features --features "$features")
    case $mode in
    quick)
        case $features in
        "") tests=(--lib --test goldens --test tasks --test tokenizer) ;;
        tokenizer) tests=(--test goldens --test tokenizer) ;;
        embedded) tests=(--test goldens --test lowlevel) ;;
        *) tests=(--test goldens --test tasks) ;;
        esac
        # These tests take seconds and an optimised build a minute. One set is not optimised at all, as in who uses the library while
        # developing: kernels must not need more stack then than threads have.
        level=1
        [ "$features" != embedded ] || level=0
        fast=(--config profile.test.package.tiny-t5.opt-level=0 --config "profile.test.package.tiny-t5-kernels.opt-level=$level")
        cargo test "${library[@]}" "${fast[@]}" "${tests[@]}"
        ;;
    check) cargo check "${library[@]}" --all-targets ;;
    *) cargo test "${library[@]}" ;;
    esac
done
