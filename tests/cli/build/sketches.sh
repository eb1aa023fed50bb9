# Every way to build: sketches, centroids, levels, GQA selection, calibration; every law holds on each, by replay too.
check() {
  echo "$*"
  squeeze-build "$dump" -o out.sqz.h5 -q --force "$@" > /dev/null || exit 1
  squeeze-inspect out.sqz.h5 --verify > report.txt && squeeze-inspect out.sqz.h5 --queries "$dump" --verify >> report.txt
  echo "-> $?, $(grep -c ^ok report.txt) laws hold"
  grep -v ^ok report.txt
}
squeeze-dump --from "$GOLDEN/import/two_layers.safetensors" -o small.kv.h5 -q > /dev/null || exit 1
dump=small.kv.h5
check --window 20 --leaf 10% --sketch 0
check --window 20 --leaf 10% --sketch 0.5
check --window 20 --leaf 10% --sketch 1
check --window 20 --leaf 10% --sketch 2
check --window 20 --leaf 10% --centroids keys
check --window 20 --leaf 10% --centroids keys --sketch 0
check --window 20 --levels 2%,8%,30% --sketch 2
check --window 20 --levels 5,40 --coarse-keep 0.6 --sketch-keep 0.4
check --window 20 --coarse 4% --leaf 20% --sketch 0
check --window 20 --leaf 10% --gqa-select group-max
check --window 20 --leaf 10% --gqa-select per-head
check --window 20 --leaf 30% --gqa-select per-head --sketch 0
dump=$FIXTURE/short.kv.h5
check --levels 0.5%,2%,8% --calibrate probes:2
check --calibrate probes --gqa-select per-head --sketch 2
size() { stat -c %s "$1"; }
squeeze-build "$dump" -o none.sqz.h5 -q --sketch 0 > /dev/null
[ "$(size none.sqz.h5)" -lt "$(size "$FIXTURE/short.sqz.h5")" ] && [ "$(size "$FIXTURE/short.sqz.h5")" -lt "$(size out.sqz.h5)" ] &&
  echo "more bits, more bytes"
