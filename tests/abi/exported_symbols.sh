#!/bin/sh
# SPDX-License-Identifier: MIT
# exported_symbols.sh LIBRARY.so RECORD: the library exports the functions of the record, nothing else.
set -eu
exported=$(nm -D --defined-only "$1" | awk '{ sub(/@.*/, "", $3); print $3 }' | LC_ALL=C sort)
recorded=$(awk '$1 == "function" { print $2 }' "$2" | LC_ALL=C sort)
[ "$exported" = "$recorded" ] || {
  printf '%s\nexports:\n%s\nthe record has:\n%s\n' "$1" "$exported" "$recorded" >&2
  exit 1
}
