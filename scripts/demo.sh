#!/usr/bin/env bash
# Set-up, build, and the main job on the embedded example: dump, build, inspect, run; ends with a table.
set -euo pipefail

usage() {
  cat <<'HELP'
usage: scripts/demo.sh [DOCUMENT [QUESTIONS]]
Asks the questions (JSONL with prompt and answer) about the document with the example model, reading all of the context
and a part of it. Default: the first test document in examples/documents. Files go to build/demo.
HELP
}
[ "${1:-}" != "--help" ] && [ "${1:-}" != "-h" ] || { usage; exit 0; }

cd "$(dirname "$0")/.."
document=${1:-examples/documents/test/doc_00.txt}
questions=${2:-${document%.txt}.questions.jsonl}
scripts/setup.sh
cmake --preset release >/dev/null
cmake --build --preset release -j "$(nproc)" --target squeeze-dump squeeze-build squeeze-inspect squeeze-run
bin=build/bin
out=build/demo
name=$(basename "$document" .txt)
mkdir -p "$out"

echo; echo "== squeeze-dump: the document's KV cache"
$bin/squeeze-dump --model examples/model --context "$document" -o "$out/$name.kv.h5" --force
echo; echo "== squeeze-build: keys in a hierarchy of clusters"
$bin/squeeze-build "$out/$name.kv.h5" -o "$out/$name.sqz.h5" --force
echo; echo "== squeeze-inspect: what is kept of the true attention"
$bin/squeeze-inspect "$out/$name.sqz.h5" --queries "$out/$name.kv.h5" --policy budget:0.3 --policy budget:0.2 --policy budget:0.1 --worst 0

# One figure of a run's summary (a line of JSON).
figure() { sed -n "s/.*\"$2\":\([0-9.eE+-]*\).*/\1/p" "$1"; }

echo "== squeeze-run: $(wc -l < "$questions") questions, dense and sparse"
rows=()
for rule in dense 30% 20% 10%; do
  if [ "$rule" = dense ]; then flags=(--dense); else flags=(--budget "$rule"); fi
  stats=$out/stats_$rule.json
  $bin/squeeze-run --index "$out/$name.sqz.h5" --model examples/model "${flags[@]}" --max-tokens 24 --stop '\n' \
    --stats "$stats" -o "$out/answers_$rule.jsonl" --force "$questions"
  [ "$rule" = dense ] && label=dense || label="budget $rule"
  rows+=("$(printf '%-14s %6.1f %%  %3d of %-3d  %6.1f %%  %10.2f  %10.3f' "$label" \
    "$(awk "BEGIN{print 100 * $(figure "$stats" accuracy)}")" "$(figure "$stats" n_correct)" "$(figure "$stats" n_graded)" \
    "$(awk "BEGIN{print 100 * $(figure "$stats" budget)}")" "$(figure "$stats" prefill_ms)" \
    "$(figure "$stats" decode_ms_per_token)")")
done

echo
echo "                accuracy   right       budget   prefill ms   ms per token"
printf '%s\n' "${rows[@]}"
echo
echo "budget: bytes of the context that a query reads (keys, values, index), over the bytes of its whole KV cache"
