# A cache that another runtime wrote: imported, indexed, verified; and a file that is none.
from=$GOLDEN/import/two_layers.safetensors
squeeze-dump --from "$from" --dtype f16 -o imported.kv.h5 --json | sed 's/,"seconds":.*//' || exit 1
squeeze-build imported.kv.h5 -o imported.sqz.h5 --window 20 --leaf 10% --coarse none -q > /dev/null || exit 1
squeeze-inspect imported.sqz.h5 --verify || exit 1
squeeze-inspect imported.sqz.h5 --queries imported.kv.h5 --sparsity 0 --csv || exit 1
try squeeze-dump --from "$EXAMPLES/model/model.safetensors" -o other.kv.h5
size=$(stat -c %s "$from")
for cut in 0 8 200 $((size - 1)); do
  head -c $cut "$from" > cut.safetensors
  squeeze-dump --from cut.safetensors -o cut.kv.h5 2> stderr.txt
  [ $? = 1 ] && [ "$(wc -l < stderr.txt)" = 1 ] || { echo "cut at $cut:"; cat stderr.txt; }
done
ls *.h5
