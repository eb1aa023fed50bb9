// jsonl
