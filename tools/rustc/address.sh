#!/usr/bin/env bash
# A rustc that builds with AddressSanitizer: cargo's RUSTC_WORKSPACE_WRAPPER in ../sanitize.sh.
# Not sh, which may be dash and loses variables with a hyphen: CARGO_BIN_EXE_tiny-t5.
RUSTC_BOOTSTRAP=1 exec "$@" -Zsanitizer=address -Cdebuginfo=line-tables-only
