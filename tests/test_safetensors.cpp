// Tests of safetensors.
