#!/usr/bin/env bash
# A rustc that counts the lines which run: cargo's RUSTC_WORKSPACE_WRAPPER in ../coverage.sh.
# Not sh, which may be dash and loses variables with a hyphen: CARGO_BIN_EXE_tiny-t5.
exec "$@" -Cinstrument-coverage
