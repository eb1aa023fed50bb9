# The documented JSON and CSV: names, and the figures that must hold.
inspect() { squeeze-inspect "$FIXTURE/short.sqz.h5" --queries "$FIXTURE/short.kv.h5" "$@"; }
inspect --sparsity 0.5,0.9 --json > replay.json || exit 1
grep -o '"targets":\[{"sparsity":0.5,"measured_sparsity":' replay.json
grep -o '"sparsity":0.9,"measured_sparsity":0' replay.json
for name in budget kept_mass topk_recall output_error layers heads; do grep -c "\"$name\":" replay.json; done
inspect --sparsity 0.9 --csv | head -n 1
inspect --sparsity 0.9 --csv | wc -l
inspect --sparsity 0.9 --probes --query-block 8 --rest mean --worst 1 | cut -c 1-7
try squeeze-inspect "$FIXTURE/short.sqz.h5" --queries "$FIXTURE/flat.sqz.h5"
try squeeze-inspect missing.sqz.h5
squeeze-inspect "$FIXTURE/short.sqz.h5" | sed -n '2p;/^n_tokens/p;/^integrity/p'
squeeze-inspect "$FIXTURE/short.kv.h5" --json | grep -c '"text"'
