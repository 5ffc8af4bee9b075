#!/bin/sh
# A rustc that builds with AddressSanitizer: cargo's RUSTC_WORKSPACE_WRAPPER in ../sanitize.sh.
RUSTC_BOOTSTRAP=1 exec "$@" -Zsanitizer=address -Cdebuginfo=line-tables-only
