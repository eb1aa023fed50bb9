# Model directories that are broken in one way each.
short=$EXAMPLES/documents/short/doc_00.txt
broken() { rm -rf model; cp -r "$EXAMPLES/model" model; chmod -R u+w model; }
dump() { try squeeze-dump --model model --context "$short" -o out.kv.h5 -q; }
broken; rm model/config.json; dump
broken; echo '{' > model/config.json; dump
broken; sed -i 's/LlamaForCausalLM/BloomForCausalLM/' model/config.json; dump
broken; sed -i 's/"rope_scaling": null/"rope_scaling": {"rope_type": "longrope", "factor": 4}/' model/config.json; dump
broken; sed -i 's/"hidden_size": 256/"hidden_size": 512/' model/config.json; dump
broken; rm model/model.safetensors; dump
broken; rm model/tokenizer.json; dump
broken; echo '{"version": "1.0"' > model/tokenizer.json; dump
size=$(stat -c %s "$EXAMPLES/model/model.safetensors")
for cut in 0 4 8 100 4000 1000000 $((size - 1)); do
  broken; head -c $cut "$EXAMPLES/model/model.safetensors" > model/model.safetensors; dump
done
broken; printf '\xff\xff\xff\xff\xff\xff\xff\x7f' | dd of=model/model.safetensors conv=notrunc status=none; dump
ls out* 2>/dev/null
exit 0
