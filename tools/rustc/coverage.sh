#!/bin/sh
# A rustc that counts the lines which run: cargo's RUSTC_WORKSPACE_WRAPPER in ../coverage.sh.
exec "$@" -Cinstrument-coverage
