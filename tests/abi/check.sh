#!/bin/sh
# SPDX-License-Identifier: MIT
# check.sh LIBRARY.so HEADER RECORD: fails where a program that was built against the recorded ABI
# could break. What was recorded must be there still; functions, numbers and fields may be added, the
# fields only after the recorded size of a struct that carries its size.
set -eu
"$(dirname "$0")/record.sh" "$1" "$2" | awk '
  function fail(text) { print text; failed = 1 }
  NR == FNR { recorded[$0] = 1; if ($1 == "size") size[$2] = $3; next }
  $1 == "field" && $5 " " $6 == "size_t struct_size" { carries_size[$2] = 1 }
  { found[$0] = 1; facts++ }
  $1 == "size" { now[$2] = $3 }
  $1 == "field" && !($0 in recorded) && $3 < size[$2] + 0 { fail("not after the recorded end: " $0) }
  END {
    if (facts < 20) fail("no debugging information: build with --buildtype=debugoptimized")
    for (line in recorded) {
      split(line, word, " ")
      grown = word[1] == "size" && carries_size[word[2]] && now[word[2]] > word[3] + 0
      if (!(line in found) && !grown) fail("gone: " line)
    }
    exit failed
  }' "$3" -
