# A plain text that continues the context is one scored request: all of it, or its first tokens; in steps or one by one.
run() { squeeze-run --index "$FIXTURE/short.sqz.h5" --model "$EXAMPLES/model" --precision f32 "$@"; }
field() { sed -n "s/.*\"$1\":\([^,}]*\).*/\1/p"; }

head -c 400 "$EXAMPLES/documents/short/doc_01.txt" > text.txt
run --score-text text.txt -o scores.jsonl --stats stats.json
sed 's/,"tokens".*//' scores.jsonl
cmp <(field perplexity < scores.jsonl) <(field perplexity < stats.json) && echo "same perplexity"
run --score-text - --max-tokens 10 < text.txt > cut.jsonl
field n_tokens < cut.jsonl
field n_scored < cut.jsonl
run --score-text text.txt --dense --score-chunk 7 | field mean_nll > steps.txt
run --score-text text.txt --dense | field mean_nll > singles.txt
paste steps.txt singles.txt | awk '{ d = $1 - $2; print (d < 1e-5 && -d < 1e-5 ? "same likelihood" : $0) }'
run --score-text text.txt -o scores.jsonl --resume
wc -l < scores.jsonl

printf x > short.txt
try run --score-text short.txt
: > empty.txt
try run --score-text empty.txt
try run --score-text missing.txt
try run --score-text text.txt requests.jsonl
try run --score-text text.txt --text
try run --score-text text.txt --template 'USER: {prompt}'
try run --score-text text.txt --score-answers
try run --compare-dense --text
