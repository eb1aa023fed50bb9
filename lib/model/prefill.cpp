// model/prefill
