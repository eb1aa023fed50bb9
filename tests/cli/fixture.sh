#!/usr/bin/env bash
# Makes the files that the command-line cases share: a dump and an index of a short example document.
# usage: fixture.sh BIN WORK
set -euo pipefail
root=$(realpath "$(dirname "$0")/../..")
rm -rf "$2"; mkdir -p "$2"
head -n 4 "$root/examples/documents/short/doc_00.questions.jsonl" > "$2/probes.jsonl"
"$1/squeeze-dump" --model "$root/examples/model" --context "$root/examples/documents/short/doc_00.txt" \
  --probes "$2/probes.jsonl" --precision f32 -o "$2/short.kv.h5" -q
"$1/squeeze-build" "$2/short.kv.h5" -o "$2/short.sqz.h5" -q
"$1/squeeze-build" "$2/short.kv.h5" --coarse none -o "$2/flat.sqz.h5" -q
