#!/usr/bin/env bash
# Runs one command-line case and compares what it prints, and its exit status, with what is expected.
#
# usage: run.sh CASE.sh [--update]     environment: SQUEEZE_BIN (folder of the programs), SQUEEZE_WORK
# (folder that fixture.sh filled); both default to the release build
#
# A case is a bash script run in an empty folder, with the programs on PATH and $EXAMPLES, $GOLDEN, $FIXTURE set. Beside it lies
# CASE.expected: its standard output, then a line "exit N". --update rewrites that file. Exit 77: skipped.
set -uo pipefail

case_file=$(realpath "$1")
expected=${case_file%.sh}.expected
root=$(realpath "$(dirname "$0")/../..")
bin=$(realpath -e "${SQUEEZE_BIN:-$root/build/bin}") && work=$(realpath -e "${SQUEEZE_WORK:-$root/build/tests/cli_work}") || exit 1
export PATH="$bin:$PATH" EXAMPLES=$root/examples GOLDEN=$root/tests/golden FIXTURE=$work
export LC_ALL=C.UTF-8
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder" || exit 1

# try COMMAND...: runs it and prints its standard error and exit status; for cases about errors.
try() {
  local status=0
  "$@" >stdout.txt 2>stderr.txt || status=$?
  sed -e "s|$FIXTURE|FIXTURE|g" -e "s|$root|ROOT|g" -e "s|$folder|.|g" stderr.txt
  echo "-> $status"
}
export root folder
export -f try

actual=$(bash "$case_file" 2>stderr.log | sed -e "s|$FIXTURE|FIXTURE|g" -e "s|$root|ROOT|g" -e "s|$folder|.|g"; echo "exit ${PIPESTATUS[0]}")
if [ "$(tail -n 1 <<<"$actual")" = "exit 77" ]; then
  echo "skipped: $(cat stderr.log)"
  exit 77
fi
if [ "${2:-}" = "--update" ]; then
  printf '%s\n' "$actual" > "$expected"
  exit 0
fi
if ! diff -u "$expected" <(printf '%s\n' "$actual"); then
  echo "--- standard error:"; cat stderr.log
  echo "--- if the new output is right: tests/cli/run.sh $case_file --update"
  exit 1
fi
