# A full disk is noticed at once; what was there before stays.
mkdir small
if ! mount -t tmpfs -o size=256k tmpfs small 2>/dev/null; then echo "needs the right to mount a tmpfs" >&2; exit 77; fi
trap 'umount small' EXIT
echo precious > small/old.kv.h5
try squeeze-dump --model "$EXAMPLES/model" --context "$EXAMPLES/documents/short/doc_00.txt" -q -o small/new.kv.h5
try squeeze-build "$FIXTURE/short.kv.h5" -q -o small/new.sqz.h5
try squeeze-dump --model "$EXAMPLES/model" --context "$EXAMPLES/documents/short/doc_00.txt" -q --force -o small/old.kv.h5
cat small/old.kv.h5
ls small | grep -v partial
