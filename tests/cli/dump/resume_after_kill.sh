# kill -9 at any moment leaves no file that looks whole, and --resume ends with the same bytes.
dump() {
  $exec squeeze-dump --model "$EXAMPLES/model" --context "$EXAMPLES/documents/short/doc_00.txt" --precision f32 --threads 1 \
    -q "$@"
}
dump -o whole.kv.h5 >/dev/null || exit 1
for wait in 0.05 0.15 0.3 0.6; do
  (exec=exec; dump -o killed.kv.h5 --chunk 64 --resume >/dev/null 2>&1) &
  sleep $wait
  kill -9 $! 2>/dev/null
  wait $! 2>/dev/null
done
[ ! -e killed.kv.h5 ] || squeeze-inspect killed.kv.h5 > /dev/null || echo "a killed run left a broken file"
[ -e killed.kv.h5 ] || dump -o killed.kv.h5 --chunk 64 --resume > /dev/null || exit 1
dump -o chunked.kv.h5 --chunk 64 > /dev/null || exit 1
cmp killed.kv.h5 chunked.kv.h5 && echo "same bytes as an undisturbed run"
ls *.partial* 2>/dev/null
exit 0
