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
inspect --policy quest:0.1,window:64,oracle:0.1,dense --json > policies.json || exit 1
grep -o '"policy":"[a-z]*","value":[0-9.]*' policies.json
inspect --policy quest:0.1,sparsity:0.5 --csv | cut -d , -f 1-4 | sed -n '1,2p;$p'
inspect --policy oracle:0.1 --worst 0 | head -n 1
try inspect --policy quantum:3
try inspect --policy quest
try inspect --policy quest:few
try inspect --policy quest:0
try inspect --policy dense:1
