# Layers that read everything, and tokens that share a selection: full budget is dense for each, and bad values.
questions=$EXAMPLES/documents/short/doc_00.questions.jsonl
run() {
  head -n 6 "$questions" | squeeze-run --index "$FIXTURE/short.sqz.h5" --model "$EXAMPLES/model" --precision f32 --max-tokens 16 \
    --stop '\n' -q "$@" -
}
tokens() { sed -n 's/.*"id":\([^,]*\),.*"tokens":\(\[[^]]*\]\).*/\1 \2/p'; }
budget() { sed 's/.*"budget":\([0-9.]*\).*/\1/' | sort -u; }
run --dense | tokens > dense.txt
run --budget 8% --dense-layers 0,1,2,3 > layers.jsonl || exit 1
tokens < layers.jsonl | cmp - dense.txt && echo "all layers dense: same tokens"
budget < layers.jsonl
for block in 0 1 5 1000; do
  run --sparsity 0 --query-block $block | tokens | cmp - dense.txt && echo "blocks of $block, full budget: same tokens"
done
least() { run --sparsity 0.9 "$@" | budget | head -n 1; }
less() { awk -v a="$1" -v b="$2" 'BEGIN { print a < b ? "fewer bytes" : a " and " b }'; }
less "$(least)" "$(least --dense-layers 0)"
less "$(least --dense-layers 3)" "$(least --dense-layers 0,3)"
run --sparsity 0.9 --query-block 0 > whole.jsonl
run --sparsity 0.9 --query-block 1000 | tokens | cmp - <(tokens < whole.jsonl) && echo "blocks beyond the prompt: the whole prompt"
run --sparsity 0.9 --query-block 1 | tokens > blocks.txt
run --sparsity 0.9 --query-block 0 --chunk 1 | tokens | cmp - blocks.txt && echo "blocks of 1: token by token"
for layers in 4 0,7 -1 all; do try run --dense-layers $layers; done
for block in -1 few 9999999; do try run --query-block $block; done
try squeeze-run --index "$FIXTURE/short.sqz.h5" --queries "$FIXTURE/short.kv.h5" --dense-layers 4
