# The same index from 1 and 2 threads, from a dump and in one step.
squeeze-build "$FIXTURE/short.kv.h5" -o one.sqz.h5 --threads 1 -q >/dev/null || exit 1
squeeze-build "$FIXTURE/short.kv.h5" -o two.sqz.h5 --threads 2 -q >/dev/null || exit 1
cmp one.sqz.h5 two.sqz.h5 && echo "1 and 2 threads: same bytes"
squeeze-build --model "$EXAMPLES/model" --context "$EXAMPLES/documents/short/doc_00.txt" --precision f32 -q \
  -o direct.sqz.h5 >/dev/null || exit 1
cmp one.sqz.h5 direct.sqz.h5 && echo "one step and two steps: same bytes"
