#!/usr/bin/env bash
# Runs one command beside another: `beside.sh FIRST… -- SECOND…`. What the first says goes to .beside.log; it ends with
# the second, whose exit code is this script's.
set -euo pipefail

first=()
while [[ ${1:?a command, then --, then another} != -- ]]; do
  first+=("$1")
  shift
done
shift

set -m # a process group of its own, to end it as a whole
"${first[@]}" >.beside.log 2>&1 &
beside=$!
set +m
trap 'kill -- "-${beside}" 2>/dev/null || true' EXIT
"$@"
