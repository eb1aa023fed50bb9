# Values that make no sense: one clear line, and no index.
build() { try squeeze-build "$FIXTURE/short.kv.h5" -o out.sqz.h5 -q "$@"; }
build --sketch 3
build --sketch -1
build --sketch some
build --centroids f64
build --levels 5%,1%
build --levels 1%,1%
build --levels 1%,few
build --levels 0%,5%
build --levels 10,5000
build --levels 1,2,3,4,5,6,7,8,9
build --coarse-keep 0
build --sketch-keep 1.5
build --gqa-select both
build --calibrate dense
build --calibrate probes:0
build --calibrate probes:-1
build --calibrate probes:two
build --calibrate probes:99999999999
build --calibrate probes:5
build --device gpu
build --device cuda:
build --device cuda:first
squeeze-dump --from "$GOLDEN/import/two_layers.safetensors" -o plain.kv.h5 -q > /dev/null || exit 1
try squeeze-build plain.kv.h5 -o out.sqz.h5 -q --window 20 --calibrate probes
ls out* 2>/dev/null
exit 0
