# Requests that are answered together: the same answers in the same order as one by one, bad lines and scores among them.
run() { squeeze-run --index "$FIXTURE/short.sqz.h5" --model "$EXAMPLES/model" --max-tokens 12 --stop '\n' --budget 20% -q "$@"; }
answers() { sed -E 's/,"(prefill_ms|decode_ms_per_token)":[^,}]*//g' "$1"; }
{
  head -n 3 "$EXAMPLES/documents/short/doc_00.questions.jsonl"
  echo 'not json'
  echo '{"id": "empty", "prompt": ""}'
  echo '{"id": "scored", "prompt": "Question: What is the access code?\nAnswer:", "completion": " 1234"}'
  echo '{"id": "short", "prompt": "Question: Why?\nAnswer:", "max_tokens": 1}'
  head -n 7 "$EXAMPLES/documents/short/doc_00.questions.jsonl" | tail -n 4
} > requests.jsonl
for precision in f32 bf16; do
  for batch in 1 2 5 8; do
    run --precision $precision --batch $batch -o $batch.jsonl --force --stats stats.json requests.jsonl
    echo "-> $?"
    answers $batch.jsonl > $batch.txt
    cmp 1.txt $batch.txt && echo "batch $batch: the same answers"
  done
  sed 's/.*\("n_requests":[0-9]*,"n_errors":[0-9]*\).*\("batch":[0-9]*\).*/\1 \2/' stats.json
done
run --batch 40 -o many.jsonl requests.jsonl
wc -l < many.jsonl
try run --batch 0 requests.jsonl
