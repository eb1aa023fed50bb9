# Bad lines become answers with an error; order, ids and exit status; --resume answers only what is missing.
run() {
  squeeze-run --index "$FIXTURE/short.sqz.h5" --model "$EXAMPLES/model" --precision f32 --max-tokens 16 --stop '\n' -q "$@"
}
summary() { sed -e 's/"tokens":.*"correct"/"correct"/' -e 's/,"tokens":.*}/}/' "$1"; }
{
  head -n 1 "$EXAMPLES/documents/short/doc_00.questions.jsonl"
  echo 'not json'
  echo '{"id": 7}'
  echo '{"id": "empty", "prompt": ""}'
  head -n 2 "$EXAMPLES/documents/short/doc_00.questions.jsonl" | tail -n 1
} > requests.jsonl
run -o answers.jsonl requests.jsonl
echo "-> $?"
summary answers.jsonl
head -n 1 answers.jsonl > first.jsonl
cp first.jsonl resumed.jsonl
grep -v 'not json' requests.jsonl > good.jsonl
run -o resumed.jsonl --resume good.jsonl
echo "-> $?"
summary resumed.jsonl
printf 'Question: Say something.\nQuestion: And again.\n' | tee prompts.txt | run --text - | wc -l
run --text --stop never prompts.txt | wc -l  # an option takes one text: the file is no stop string
