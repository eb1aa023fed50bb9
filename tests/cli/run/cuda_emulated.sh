# The programs with emulated CUDA kernels: answers and budgets as on the CPU, a dump and an index that keep the laws, and
# errors for what a device does not do.
run() { squeeze-run-emulated --index "$FIXTURE/short.sqz.h5" --model "$EXAMPLES/model" --stop '\n' --max-tokens 5 -q "$@"; }
texts() { sed 's/.*"text":\("[^"]*"\).*/\1/'; }
field() { sed "s/.*\"$1\":\([^,}]*\).*/\1/" "$2"; }
head -n 1 "$EXAMPLES/documents/short/doc_00.questions.jsonl" > question.jsonl
run --dense question.jsonl | texts > expected.txt
cat expected.txt
for rule in "--dense" "--budget 20%" "--sparsity 0.9 --rest drop"; do
  run $rule --stats cpu.json question.jsonl > /dev/null
  run $rule --device cuda --stats cuda.json question.jsonl | texts | cmp - expected.txt && echo "$rule: same answer"
  awk -v x="$(field budget cpu.json)" -v y="$(field budget cuda.json)" \
    'BEGIN { print (x / y > 0.95 && x / y < 1.05) ? "about as many bytes" : x " and " y }'
done
field device cuda.json
run --device cuda --budget 20% --device-memory 2MiB --stats host.json question.jsonl | texts | cmp - expected.txt && echo "with keys in the host's memory: same answer"
awk -v x="$(field bytes_from_host host.json)" -v y="$(field bytes_read host.json)" 'BEGIN { print (x > 0.2 * y && x < y) ? "of which some came over the bus" : x " of " y }'
head -n 3 "$EXAMPLES/documents/short/doc_00.questions.jsonl" > three.jsonl
run --device cuda --budget 20% three.jsonl | texts > alone.txt
run --device cuda --budget 20% --batch 3 three.jsonl | texts | cmp - alone.txt && echo "three at a time: the same answers"
run --device cuda --budget 20% --no-graph three.jsonl | texts | cmp - alone.txt && echo "without graphs: the same answers"
head -c 900 "$EXAMPLES/documents/short/doc_00.txt" > start.txt
squeeze-dump-emulated --device cuda --model "$EXAMPLES/model" --context start.txt --window 16 -o start.kv.h5 -q | sed 's/; .*//; s/^[0-9.]* s.*/done/'
squeeze-build-emulated --device cuda start.kv.h5 --window 16 --leaf 10% -o start.sqz.h5 -q > /dev/null
squeeze-inspect-emulated start.sqz.h5 --queries start.kv.h5 --verify --device cuda | tail -n 5
squeeze-inspect-emulated "$FIXTURE/short.sqz.h5" --queries "$FIXTURE/short.kv.h5" --verify --device cuda | tail -n 4
try squeeze-inspect-emulated start.sqz.h5 --device cuda
try run --device cuda --policy quest:0.1 question.jsonl
try run --device cuda --device-memory 10K question.jsonl
try run --device cuda --device-memory some question.jsonl
try run --device-memory 8GiB question.jsonl
try run --no-graph question.jsonl
try run --device cuda --top-p 0.5 question.jsonl
try run --device cuda --precision f32 question.jsonl
try squeeze-dump-emulated --device cuda --model "$EXAMPLES/model" --context start.txt --dtype f32 -o x.kv.h5
try squeeze-dump-emulated --device cuda --from none.safetensors -o x.kv.h5
