# One clear line on stderr, exit 1 (bad usage 2).
try squeeze-run
try squeeze-run --index "$FIXTURE/short.sqz.h5"
try squeeze-run --index missing.sqz.h5 --model "$EXAMPLES/model" /dev/null
try squeeze-run --index "$FIXTURE/short.kv.h5" --model "$EXAMPLES/model" /dev/null
try squeeze-run --index "$FIXTURE/short.sqz.h5" --model missing /dev/null
try squeeze-run --index "$FIXTURE/short.sqz.h5" --model "$EXAMPLES/model" missing.jsonl
try squeeze-run --index "$FIXTURE/short.sqz.h5" --model "$EXAMPLES/model" --sparsity 1.5 /dev/null
try squeeze-run --index "$FIXTURE/short.sqz.h5" --model "$EXAMPLES/model" --sparsity 0.9 --top-k 5 /dev/null
try squeeze-run --index "$FIXTURE/short.sqz.h5" --model "$EXAMPLES/model" --device tpu /dev/null
cp -r "$EXAMPLES/model" other; chmod -R u+w other
printf '\x11\x11' | dd of=other/model.safetensors bs=1 seek=$(( $(stat -c %s other/model.safetensors) - 2 )) conv=notrunc status=none
try squeeze-run --index "$FIXTURE/short.sqz.h5" --model other /dev/null 2>&1 | sed 's/[0-9a-f]\{64\}/HASH/g'
