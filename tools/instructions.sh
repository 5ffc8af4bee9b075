#!/usr/bin/env bash
# Instructions of a start, a decoder step, an encoder pass and tokenizing, under valgrind's callgrind: AVX2, one thread, the embedded
# model. Compares with tools/instructions.tsv; `tools/instructions.sh write` writes it anew.
set -euo pipefail
cd "$(dirname "$0")/.."
baseline=tools/instructions.tsv
binary=${CARGO_TARGET_DIR:-target}/release/tiny-t5
[ -x "$binary" ] || cargo build --release

# Instructions of a run, which may end with an error.
count() {
    { TINY_T5_ISA=avx2 valgrind --tool=callgrind --callgrind-out-file=/dev/null "$binary" "$@" 2>&1 >/dev/null || true; } |
        sed -n 's/.*Collected : //p'
}

long=$(printf 'photosynthesis %.0s' {1..40})
start=$(count --threads 1 --max-new-tokens 1 a)
steps=$(count --threads 1 --speculation off --max-new-tokens 17 --min-new-tokens 17 a)
short_pass=$(count encode --threads 1 a)
long_pass=$(count encode --threads 1 "${long:0:101}")
# Both are refused behind the tokenizer: more tokens than were allowed.
few_tokens=$(count encode --threads 1 --max-source-tokens 1 aa)
many_tokens=$(count encode --threads 1 --max-source-tokens 1 "${long:0:502}")

found=$(printf '%s\t%s\n' \
    "start: load, one token" "$start" \
    "decoder step" $(((steps - start) / 16)) \
    "encoder pass: 100 characters more" $((long_pass - short_pass)) \
    "tokenizing: 500 characters more" $((many_tokens - few_tokens)))
if [ "${1:-compare}" = write ]; then
    echo "$found" >"$baseline"
fi
# Counts vary by less than 1 % from run to run; 2 % is a change.
paste "$baseline" <(cut -f2 <<<"$found") | awk -F'\t' '
    { change = 100 * ($3 / $2 - 1); printf "%-36s %12d %12d %+.1f %%\n", $1, $2, $3, change }
    change > 2 { worse = 1 }
    END { exit worse }'
