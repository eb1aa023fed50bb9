# Keys and values in 8 bits: less bytes, a small error, and every law, policy, budget and answer as on any index.
build() { squeeze-build "$FIXTURE/short.kv.h5" -q --force "$@"; }
build --kv int8 -o int8.sqz.h5 > table.txt || exit 1
grep -o '^keys and values in 8 bits: root-mean-square relative error 0\.[0-9]* % and 0\.[0-9]* %$' table.txt |
  sed 's/0\.[0-9]*/0.N/g'
build --kv int8 -o same.sqz.h5 --json > build.json && cmp int8.sqz.h5 same.sqz.h5 && echo "same bytes"
grep -o '"key_error":0\.00' build.json | wc -l
build --kv keys -o keys.sqz.h5 | grep -c "8 bits"
cmp keys.sqz.h5 "$FIXTURE/short.sqz.h5" && echo "the default is --kv keys"
size() { stat -c %s "$1"; }
awk -v a="$(size int8.sqz.h5)" -v b="$(size keys.sqz.h5)" 'BEGIN { print (a < 0.62 * b) ? "smaller" : a " of " b }'
squeeze-inspect int8.sqz.h5 | grep -E '^(dtype|kv) '
squeeze-inspect keys.sqz.h5 | grep -E '^(dtype|kv) '
squeeze-inspect int8.sqz.h5 --verify
squeeze-inspect int8.sqz.h5 --queries "$FIXTURE/short.kv.h5" --verify

echo "policies"
inspect() { squeeze-inspect int8.sqz.h5 --queries "$FIXTURE/short.kv.h5" "$@"; }
inspect --policy quest:0.5,window:64,oracle:0.1,dense,budget:0.2,top-k:90,top-p:0.5,threshold:0.001,flat:0.8 --csv |
  cut -d , -f 1 | sort | uniq -c
inspect --policy dense --json | grep -o '"budget":1\.0,"kept_mass":1\.0,"topk_recall":1\.0,"output_error":0\.0' | head -n 1

echo "budgets"
replay() { squeeze-run --index int8.sqz.h5 --queries "$FIXTURE/short.kv.h5" "$@"; }
field() { sed "s/.*\"$1\":\([^,}]*\).*/\1/"; }
replay --dense --json | field bytes_dense_per_token  # 2,022 tokens x 4 layers x 2 heads x 2 x (64 + 4)
near() { awk -v found="$1" -v asked="$2" 'BEGIN { r = found / asked; print (r > 0.97 && r < 1.03) ? "as asked" : found " for " asked }'; }
near "$(replay --budget 15% --json | field budget)" 0.15
near "$(replay --budget 400K --json | field bytes_read_per_token)" $((400 * 1024))

echo "answers"
questions=$EXAMPLES/documents/short/doc_00.questions.jsonl
run() {
  squeeze-run --index int8.sqz.h5 --model "$EXAMPLES/model" --precision f32 --max-tokens 16 --stop '\n' -q "$@" "$questions"
}
tokens() { sed -n 's/.*"id":\([^,]*\),.*"tokens":\(\[[^]]*\]\).*/\1 \2/p' "$1"; }
run --dense -o dense.jsonl && run --sparsity 0 -o full.jsonl || exit 1
tokens dense.jsonl > dense.txt
tokens full.jsonl > full.txt
cmp dense.txt full.txt && echo "full budget: same tokens as dense"

squeeze-build "$FIXTURE/short.kv.h5" --kv int8 -o dry.sqz.h5 --dry-run | grep -o 'about .* % of the KV cache'
try squeeze-build "$FIXTURE/short.kv.h5" --kv int4 -o bad.sqz.h5
