# The report's data is what --json prints, escaped; files are not overwritten; what is wrong is said before the work.
report() { squeeze-inspect "$FIXTURE/short.sqz.h5" --queries "$FIXTURE/short.kv.h5" --html report.html "$@"; }
squeeze-inspect none --queries none --html new.html 2>&1 | grep libjs-chart.js >&2 && exit 77
report --model "$EXAMPLES/model" --json > report.json || exit 1
sed -n 's/.*id="report">\(.*\)<\/script>$/\1/p' report.html | sed 's/\\u003c/</g; s/\\u003e/>/g; s/\\u0026/\&/g' | cmp - report.json && echo "same data"
grep -o '"label":"[^"]*","policy":"[a-z]*","rest":"[a-z]*"' report.json
grep -o '"kind":"probe"' report.json | wc -l
grep -o '"kind":"window","first_token":[0-9]*' report.json
grep -o '"kind":"text"' report.json
try report
report --policy quest:0.1,top-k:50,top-k:90 --force -q
grep -o '"label":"Chosen[^"]*","policy":"[^"]*"' report.html
grep -o '"focus":{[^}]*}' report.html
grep -o '"kind":"ids"' report.html
try report --force --csv
try report --force --model missing
try squeeze-inspect "$FIXTURE/short.sqz.h5" --html other.html
ls
