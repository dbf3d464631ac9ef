#!/bin/sh
# SPDX-License-Identifier: MIT
# exported_symbols.sh LIBRARY.so LIST: the library exports what the list names, and nothing else.
set -eu
found=$(nm -D --defined-only "$1" | awk '{ print $3 }' | sed 's/@.*//' | LC_ALL=C sort)
if printf '%s\n' "$found" | grep -v '^axn_'; then
  echo "exported without the prefix axn_" >&2
  exit 1
fi
printf '%s\n' "$found" | diff -u "$2" - || {
  echo "the exported symbols differ from $2" >&2
  exit 1
}
