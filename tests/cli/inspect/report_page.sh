# A report in a browser: every figure equals its data, in light, dark and on a phone; a hostile text stays text.
for program in python3 chromium; do
  command -v "$program" >/dev/null || { echo "no $program here" >&2; exit 77; }
done
squeeze-inspect none --queries none --html new.html 2>&1 | grep libjs-chart.js >&2 && exit 77
{
  echo '</script><script>console.error("escaped")</script><img src="no.png" onerror="throw 1"> <!-- <script> &lt; 漢字 😀'
  head -c 2500 "$EXAMPLES/documents/short/doc_00.txt"
} > hostile.txt
echo '{"prompt": "</script><b onclick=x>\u2028 \"Which\" <valve> & why?"}' > probes.jsonl
squeeze-dump --model "$EXAMPLES/model" --context hostile.txt --probes probes.jsonl -o h.kv.h5 -q > made.txt || exit 1
squeeze-build h.kv.h5 -o h.sqz.h5 -q > made.txt || exit 1
squeeze-inspect h.sqz.h5 --queries h.kv.h5 --model "$EXAMPLES/model" --html report.html --json -q > report.json || exit 1
"$root/scripts/check_report.py" report.html --json report.json
