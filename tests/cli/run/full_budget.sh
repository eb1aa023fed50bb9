# At full budget the answers are those of dense attention, token for token.
questions=$EXAMPLES/documents/short/doc_00.questions.jsonl
run() {
  squeeze-run --index "$FIXTURE/short.sqz.h5" --model "$EXAMPLES/model" --precision f32 --max-tokens 16 --stop '\n' -q \
    "$@" "$questions"
}
tokens() { sed -n 's/.*"id":\([^,]*\),.*"tokens":\(\[[^]]*\]\).*/\1 \2/p' "$1"; }
run --dense -o dense.jsonl || exit 1
run --sparsity 0 -o full.jsonl || exit 1
tokens dense.jsonl > dense.txt
tokens full.jsonl > full.txt
wc -l < dense.txt
cmp dense.txt full.txt && echo "same tokens"
run --sparsity 0 --pin --threads 1 -o pinned.jsonl || exit 1
tokens pinned.jsonl | cmp dense.txt && echo "same tokens on a pinned thread"
try squeeze-run --index "$FIXTURE/short.sqz.h5" --model "$EXAMPLES/model" --pin --threads 4096 "$questions" |
  sed 's/use [0-9]* core/use N core/'

