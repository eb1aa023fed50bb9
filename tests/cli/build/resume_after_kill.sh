# A killed build, continued, gives the bytes of an undisturbed one; in one step too.
one_step() {
  $exec squeeze-build --model "$EXAMPLES/model" --context "$EXAMPLES/documents/short/doc_00.txt" --precision f32 --threads 1 -q \
    -o direct.sqz.h5 "$@"
}
for wait in 0.1 0.3 0.6; do
  squeeze-build "$FIXTURE/short.kv.h5" -o built.sqz.h5 --threads 1 -q --resume >/dev/null 2>&1 & first=$!
  (exec=exec; one_step --resume >/dev/null 2>&1) & second=$!
  sleep $wait
  kill -9 $first $second 2>/dev/null
  wait $first $second 2>/dev/null
done
[ -e built.sqz.h5 ] || squeeze-build "$FIXTURE/short.kv.h5" -o built.sqz.h5 --resume -q >/dev/null || exit 1
[ -e direct.sqz.h5 ] || one_step --resume >/dev/null || exit 1
cmp built.sqz.h5 "$FIXTURE/short.sqz.h5" && echo "from a dump: same bytes"
cmp direct.sqz.h5 "$FIXTURE/short.sqz.h5" && echo "in one step: same bytes"
