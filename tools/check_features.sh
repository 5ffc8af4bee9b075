#!/usr/bin/env bash
# Every combination of the library's features builds and passes its tests; `tools/check_features.sh check` only type-checks them.
set -euo pipefail
cd "$(dirname "$0")/.."
names=(tokenizer rayon mmap embedded)
for ((set = 0; set < 1 << ${#names[@]}; set++)); do
    features=()
    for ((i = 0; i < ${#names[@]}; i++)); do
        ((set >> i & 1)) && features+=("${names[i]}")
    done
    list=$(IFS=,; echo "${features[*]:-}")
    echo "features: ${list:-none}"
    if [ "${1:-test}" = check ]; then
        cargo check --quiet --package tiny-t5 --no-default-features --features "$list" --all-targets
    else
        cargo test --quiet --package tiny-t5 --no-default-features --features "$list"
    fi
done
