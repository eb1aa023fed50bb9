// Tests of prefill.
