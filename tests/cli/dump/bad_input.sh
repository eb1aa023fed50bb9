# One clear line on stderr, exit 1 (bad usage 2), and no file.
short=$EXAMPLES/documents/short/doc_00.txt
try squeeze-dump
try squeeze-dump --model "$EXAMPLES/model" -o out.kv.h5
try squeeze-dump --model missing --context "$short" -o out.kv.h5
try squeeze-dump --model "$EXAMPLES/model" --context missing.txt -o out.kv.h5
: > empty.txt
try squeeze-dump --model "$EXAMPLES/model" --context empty.txt -o out.kv.h5
printf 'abc\xff\xfe' > latin.txt
try squeeze-dump --model "$EXAMPLES/model" --context latin.txt -o out.kv.h5
try squeeze-dump --model "$EXAMPLES/model" --context "$short" --dtype f64 -o out.kv.h5
try squeeze-dump --model "$EXAMPLES/model" --context "$short" -o missing/folder/out.kv.h5
echo precious > there.kv.h5
try squeeze-dump --model "$EXAMPLES/model" --context "$short" -o there.kv.h5
cat there.kv.h5
try squeeze-dump --from "$short" -o out.kv.h5
try squeeze-dump --isa sse2 --model "$EXAMPLES/model" --context "$short" -o out.kv.h5 | sed "s/offers .*/offers .../"
ls *.h5*
