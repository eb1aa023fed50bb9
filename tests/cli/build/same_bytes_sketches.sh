# The same index from 1 and 2 threads and in one step, with sketches, levels, probe questions and heads that choose alone.
options=(--sketch 2 --levels 0.5%,2%,8% --calibrate probes:3 --gqa-select per-head)
build() { squeeze-build "$FIXTURE/short.kv.h5" -q "${options[@]}" "$@" > /dev/null || exit 1; }
build -o one.sqz.h5 --threads 1
build -o two.sqz.h5 --threads 2
cmp one.sqz.h5 two.sqz.h5 && echo "1 and 2 threads: same bytes"
squeeze-build --model "$EXAMPLES/model" --context "$EXAMPLES/documents/short/doc_00.txt" --probes "$FIXTURE/probes.jsonl" \
  --precision f32 -q "${options[@]}" -o direct.sqz.h5 > /dev/null || exit 1
cmp one.sqz.h5 direct.sqz.h5 && echo "one step and two steps: same bytes"
