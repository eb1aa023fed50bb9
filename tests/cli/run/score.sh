# Completions are scored instead of generated: tokens, laws between the figures, and what cannot be scored.
run() { squeeze-run --index "$FIXTURE/short.sqz.h5" --model "$EXAMPLES/model" --precision f32 "$@"; }
# A figure (or list) of each line; and a sum over a list, nulls left out.
field() { sed -n "s/.*\"$1\":\(\[[^]]*\]\|[^,}]*\).*/\1/p"; }
total() { field "$1" | tr -d '[]' | awk -F, '{ for (i = 1; i <= NF; ++i) s += $i } END { printf "%.9f\n", s }'; }
near() { awk -v a="$1" -v b="$2" -v e="${3:-1e-6}" 'BEGIN { d = a - b; print (d < e && -d < e ? "equal" : a " and " b) }'; }

question=$(head -n 1 "$EXAMPLES/documents/short/doc_00.questions.jsonl")
given=$(sed 's/"answer": "/"completion": " /' <<<"$question")
echo "$given" | run --sparsity 0.9 --compare-dense - > scored.jsonl
sed 's/:\[[^]]*\]/:[]/g; s/:[0-9][0-9.e-]*/:N/g' scored.jsonl
field tokens < scored.jsonl
echo "$question" | run --sparsity 0.9 --stop '\n' | field tokens
near "$(total logprobs < scored.jsonl)" "-$(field nll < scored.jsonl)"
near "$(field perplexity < scored.jsonl)" "$(awk -v x="$(field mean_nll < scored.jsonl)" 'BEGIN { print exp(x) }')" 1e-4
field kl < scored.jsonl | grep -c -- '-[0-9.]*[,\]]'

echo "at full budget nothing diverges"
echo "$given" | run --sparsity 0 --compare-dense > full.jsonl
near "$(field mean_kl < full.jsonl)" 0 1e-9
near "$(field prompt_mean_kl < full.jsonl)" 0 1e-9
near "$(field nll < full.jsonl)" "$(field dense_nll < scored.jsonl)"

echo "two requests are the sum of each alone, and --score-answers scores the answers"
sed 's/"id": "/&again_/' <<<"$given" | cat - <(echo "$given") | run --sparsity 0.9 --stats two.json --compare-dense > two.jsonl
near "$(total nll < two.jsonl)" "$(total nll < two.json)"
field n_scored < two.json
field prompt_n_scored < two.json
echo "$question" | run --sparsity 0.9 --score-answers --compare-dense > answers.jsonl
cmp <(field kl < scored.jsonl) <(field kl < answers.jsonl) && cmp <(field kl < scored.jsonl) <(head -n 1 two.jsonl | field kl) &&
  echo "same divergences"

echo "bad lines"
printf '%s\n' '{"completion": 5}' '{"completion": ""}' '{"completion": "a"}' '{"completion": "no prompt\n"}' \
  '{"prompt": "a", "completion": "b c d e f", "max_tokens": 2}' |
  run --sparsity 0.9 -q | sed 's/"logprobs":.*//'
echo "$question" | run --compare-dense --max-tokens 2 2>&1 >/dev/null
