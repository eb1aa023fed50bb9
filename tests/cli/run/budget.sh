# A budget in shares or bytes is what is read; too small ones and nonsense are refused.
replay() { squeeze-run --index "${index:-$FIXTURE/short.sqz.h5}" --queries "$FIXTURE/short.kv.h5" "$@"; }
field() { sed "s/.*\"$1\":\([^,}]*\).*/\1/"; }
near() { awk -v found="$1" -v asked="$2" 'BEGIN { r = found / asked; print (r > 0.97 && r < 1.03) ? "as asked" : found " for " asked }'; }
near "$(replay --budget 8% --json | field budget)" 0.08
near "$(replay --budget 0.2 --json | field budget)" 0.2
near "$(replay --budget 30% --rest drop --json | field budget)" 0.3
near "$(replay --budget 400K --json | field bytes_read_per_token)" $((400 * 1024))
near "$(replay --budget 409600 --rest drop --json | field bytes_read_per_token)" $((400 * 1024))
near "$(replay --budget 1M --json | field bytes_read_per_token)" $((1024 * 1024))
near "$(replay --policy budget:0.2 --json | field budget)" 0.2
for budget in 100% 1 1.0 1G; do replay --budget $budget --json | field measured_sparsity; done
squeeze-build "$FIXTURE/short.kv.h5" -o clusters.sqz.h5 -q --sketch 0 --levels 1%,5% > /dev/null || exit 1
near "$(index=clusters.sqz.h5 replay --budget 25% --json | field budget)" 0.25
for budget in 0.1% 64K 1K; do try replay --budget $budget; done
for budget in 0 0% -5% 200% 5x 5KB abc 1e-3 ..; do try replay --budget $budget; done
try replay --policy budget
try replay --policy budget:0
try replay --policy budget:nan
