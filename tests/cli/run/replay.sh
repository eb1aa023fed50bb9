# Replay without a model: the figures that do not depend on the machine's speed.
squeeze-run --index "$FIXTURE/short.sqz.h5" --queries "$FIXTURE/short.kv.h5" --sparsity 0 --json > full.json || exit 1
sed 's/.*"measured_sparsity":\([^,]*\),.*/\1/' full.json
squeeze-run --index "$FIXTURE/short.sqz.h5" --queries "$FIXTURE/short.kv.h5" --sparsity 0.9 | sed 's/ .*//'
