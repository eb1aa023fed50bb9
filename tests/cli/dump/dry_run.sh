# Sizes and memory, nothing written.
squeeze-dump --model "$EXAMPLES/model" --context "$EXAMPLES/documents/short" -o out.kv.h5 --dry-run || exit 1
squeeze-dump --model "$EXAMPLES/model" --context "$EXAMPLES/documents/short/doc_00.txt" -o out.kv.h5 --dry-run --json || exit 1
ls
