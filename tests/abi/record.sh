#!/bin/sh
# SPDX-License-Identifier: MIT
# record.sh LIBRARY.so HEADER: prints the ABI, a fact a line, from the debugging information (gdb reads
# it) of what the public header names:
#   soname NAME
#   function NAME TYPE          an exported function; type NAME TYPE: a pointer to a function of the host's
#   number ENUM NAME VALUE
#   size STRUCT BYTES
#   field STRUCT OFFSET BYTES DECLARATION
set -eu
library=$1 header=$2
readelf -d "$library" | sed -n 's/.*soname: \[\(.*\)\]/soname \1/p'

ask() { # KIND NAME QUESTION: gdb's answer, each line after its kind and name
  gdb -nx -batch -ex "set width 0" -ex "$3" "$library" 2>&1 | sed "s|^|$1 $2 |"
}
for name in $(nm -D --defined-only "$library" | awk '{ print $3 }' | LC_ALL=C sort); do
  ask function "$name" "whatis $name"
done | sed 's/ type = / /'
for name in $(sed -n 's/^typedef void (\*\([a-z_]*\)).*/\1/p' "$header"); do
  ask type "$name" "whatis $name"
done | sed 's/ type = / /'
for name in $(sed -n 's/^typedef enum \([a-z_]*\) {.*/\1/p' "$header"); do
  ask number "$name" "ptype $name"
done | awk '{ # an enumerator without a value is one more than the one before
    kind = $1 " " $2; sub(/^[^{]*{/, ""); sub(/}.*/, ""); count = split($0, part, ", "); value = -1
    for (i = 1; i <= count; i++) {
      value = split(part[i], pair, " = ") == 2 ? pair[2] : value + 1
      print kind, pair[1], value } }'
for name in $(sed -n 's/^typedef struct \([a-z_]*\) {.*/\1/p' "$header"); do
  ask field "$name" "ptype /o struct $name"
done | awk '
    /total size/ { print "size", $2, $(NF - 1) }
    $3 == "/*" && $4 ~ /^[0-9]+$/ && $5 == "|" { sub(/;$/, ""); line = $1 " " $2 " " $4 " " $6; sub(/.*\*\/ +/, ""); print line, $0 }'
