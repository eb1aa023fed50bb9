# Ctrl-C: one line, exit 1, nothing that looks whole.
set -m
squeeze-dump --model "$EXAMPLES/model" --context "$EXAMPLES/documents/test" --precision f32 --threads 1 -q \
  -o out.kv.h5 2>stderr.txt &
pid=$!
for _ in $(seq 200); do [ -e out.kv.h5.partial ] && break; sleep 0.05; done
kill -INT $pid
wait $pid
echo "-> $?"
cat stderr.txt
[ ! -e out.kv.h5 ] && echo "no output"
