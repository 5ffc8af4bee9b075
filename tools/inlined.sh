#!/usr/bin/env bash
# Every intrinsic of the kernels is inlined. One that is not, as in a closure that stays a function of its own and so has not the
# instruction set, is a call for each register: packing took more than twice as long so.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
cargo rustc --quiet -p tiny-t5-kernels --lib --release --config 'profile.release.lto="off"' -- --emit=asm
# The newest: cargo makes it anew where the sources have changed.
assembly=$(ls -t "$target"/release/deps/tiny_t5_kernels-*.s | head -1)
calls=$(sed -nE 's/^([A-Za-z0-9_.$]*core_arch[A-Za-z0-9_.$]*):.*/\1/p' "$assembly")
[ -z "$calls" ] || { echo "intrinsics that are functions of their own:"; echo "$calls"; exit 1; }
