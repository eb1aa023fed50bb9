#!/usr/bin/env python3
"""Writes the KV cache of any transformers causal language model, for `squeeze-dump --from`.

The model runs once over the text, in chunks, through a recording attention function: it sees every layer's queries, keys
and values after RoPE. Needs the Python packages torch, transformers and safetensors.

File: layers.N.keys, layers.N.values [n_kv_heads, n_tokens, head_dim], layers.N.queries [n_query_heads, n_queries,
head_dim] (the last `--window` tokens), tokens and query_positions int32; in the metadata model_name, softmax_scale, text.

example:
  scripts/dump_transformers.py --model ./my-model --context manual.txt -o manual.safetensors
  squeeze-dump --from manual.safetensors -o manual.kv.h5
"""
import argparse
import pathlib
import sys

DTYPES = ('bf16', 'f16', 'f32')


def parse_arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--model', required=True, help='a transformers model directory or name')
    p.add_argument('--context', required=True, type=pathlib.Path, help='the fixed text')
    p.add_argument('-o', '--output', required=True, type=pathlib.Path, help='NAME.safetensors')
    p.add_argument('--window', type=int, default=100, help='last tokens whose queries are recorded (default 100)')
    p.add_argument('--chunk', type=int, default=512, help='tokens per step (default 512)')
    p.add_argument('--dtype', choices=DTYPES, default='bf16', help='type of the stored tensors (default bf16)')
    p.add_argument('--compute', choices=DTYPES, default='bf16', help='type that the model runs in (default bf16)')
    p.add_argument('--device', default='cpu', help='torch device (default cpu)')
    return p.parse_args()


class Recorder:
    """An attention function for transformers that keeps each layer's last queries, its keys and its values."""

    def __init__(self, window, n_tokens, dtype):
        self.first_query = max(0, n_tokens - window)
        self.dtype = dtype
        self.layers = {}
        self.scale = None
        self.n_seen = 0  # tokens of the chunks before this one

    def __call__(self, module, query, key, value, attention_mask, scaling=None, **kwargs):
        from transformers.integrations.sdpa_attention import sdpa_attention_forward
        layer = self.layers.setdefault(module.layer_idx, {'queries': []})
        layer['keys'], layer['values'] = key[0], value[0]  # the cache so far
        skip = max(0, self.first_query - self.n_seen)
        if skip < query.shape[2]:
            layer['queries'].append(query[0, :, skip:].to(self.dtype))
        self.scale = scaling if scaling is not None else query.shape[-1] ** -0.5
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)


def load(arguments, dtypes):
    import transformers
    tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.model)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        arguments.model, dtype=dtypes[arguments.compute], attn_implementation='sdpa').to(arguments.device).eval()
    return tokenizer, model


def record(model, ids, arguments, dtype):
    import torch
    import transformers
    recorder = Recorder(arguments.window, len(ids), dtype)
    transformers.AttentionInterface.register('squeeze_recorder', recorder)
    transformers.AttentionMaskInterface.register('squeeze_recorder', transformers.masking_utils.sdpa_mask)
    model.set_attn_implementation('squeeze_recorder')
    cache = transformers.DynamicCache()
    with torch.no_grad():
        for begin in range(0, len(ids), arguments.chunk):
            chunk = torch.tensor([ids[begin:begin + arguments.chunk]], device=arguments.device)
            model(chunk, past_key_values=cache, use_cache=True, logits_to_keep=1)
            recorder.n_seen += chunk.shape[1]
            print(f'\r{recorder.n_seen}/{len(ids)} tokens', end='', file=sys.stderr)
    print(file=sys.stderr)
    return recorder


def main():
    arguments = parse_arguments()
    import torch
    from safetensors.torch import save_file
    dtypes = {'bf16': torch.bfloat16, 'f16': torch.float16, 'f32': torch.float32}
    dtype = dtypes[arguments.dtype]
    text = arguments.context.read_text(encoding='utf-8')
    tokenizer, model = load(arguments, dtypes)
    ids = tokenizer(text)['input_ids']
    if tokenizer.eos_token_id is not None and ids and ids[-1] == tokenizer.eos_token_id:
        ids = ids[:-1]
    recorder = record(model, ids, arguments, dtype)
    tensors = {'tokens': torch.tensor(ids, dtype=torch.int32),
               'query_positions': torch.arange(recorder.first_query, len(ids), dtype=torch.int32)}
    for layer, parts in recorder.layers.items():
        tensors[f'layers.{layer}.keys'] = parts['keys'].to(dtype).cpu().contiguous()
        tensors[f'layers.{layer}.values'] = parts['values'].to(dtype).cpu().contiguous()
        tensors[f'layers.{layer}.queries'] = torch.cat(parts['queries'], dim=1).cpu().contiguous()
    metadata = {'format': 'squeeze-kv', 'model_name': pathlib.Path(arguments.model).resolve().name,
                'softmax_scale': repr(float(recorder.scale)), 'text': text}
    save_file(tensors, arguments.output, metadata=metadata)
    print(f'{arguments.output}: {len(ids)} tokens, {len(recorder.layers)} layers')


if __name__ == '__main__':
    main()
