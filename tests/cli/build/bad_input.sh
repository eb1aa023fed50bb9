# One clear line on stderr, exit 1 (bad usage 2), and no index.
dump=$FIXTURE/short.kv.h5
try squeeze-build
try squeeze-build missing.kv.h5 -o out.sqz.h5
try squeeze-build "$FIXTURE/short.sqz.h5" -o out.sqz.h5
try squeeze-build "$EXAMPLES/documents/short/doc_00.txt" -o out.sqz.h5
try squeeze-build "$dump" -o out.sqz.h5 --leaf 0
try squeeze-build "$dump" -o out.sqz.h5 --leaf 200%
try squeeze-build "$dump" -o out.sqz.h5 --leaf 5000
try squeeze-build "$dump" -o out.sqz.h5 --leaf 10 --coarse 20
try squeeze-build "$dump" -o out.sqz.h5 --sinks 2000 --window 2000
try squeeze-build "$dump" -o out.sqz.h5 --metric manhattan
cp "$FIXTURE/short.sqz.h5" there.sqz.h5
try squeeze-build "$dump" -o there.sqz.h5
cmp there.sqz.h5 "$FIXTURE/short.sqz.h5" && echo "what was there stays"
size=$(stat -c %s "$dump")
for cut in 0 7 512 2048 10000 $((size / 2)) $((size - 1)); do
  head -c $cut "$dump" > cut.kv.h5
  squeeze-build cut.kv.h5 -o out.sqz.h5 2>stderr.txt
  [ $? = 1 ] && [ "$(wc -l < stderr.txt)" = 1 ] || { echo "cut at $cut:"; cat stderr.txt; }
done
ls out* 2>/dev/null
exit 0
