# A NaN among the keys is found and named; no index appears.
cp "$GOLDEN/import/two_layers.safetensors" nan.safetensors
chmod u+w nan.safetensors
printf '\x00\x7e' | dd of=nan.safetensors bs=1 seek=5000 conv=notrunc status=none
squeeze-dump --from nan.safetensors -o nan.kv.h5 -q > /dev/null || exit 1
try squeeze-build nan.kv.h5 -o nan.sqz.h5 --window 20 --coarse none
ls *.sqz.h5 2>/dev/null
exit 0
