#!/usr/bin/env python3
"""Writes the golden model directories of the forward-pass tests: small random models with transformers' logits.

Below --out: tokens.json (300 token ids, the recorded positions), and per model a folder with config.json, its weights
and golden.safetensors (logits, float32 [positions, vocab], from eager attention in float32). The weights depend on the
version of torch, the logits agree to about 1e-6. Needs torch, transformers, safetensors.
"""
import argparse
import json
import random
import shutil
from pathlib import Path

N_TOKENS = 300
POSITIONS = sorted(set(range(0, N_TOKENS, 37)) | set(range(N_TOKENS - 8, N_TOKENS)))

SMALL = dict(hidden_size=32, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             vocab_size=48, max_position_embeddings=512, tie_word_embeddings=True)

# name: (class prefix, config changes, dtype, treatment of the written directory)
CASES = {
    "llama_mha": ("Llama", dict(num_key_value_heads=4, tie_word_embeddings=False), "bf16", None),
    "llama_gqa": ("Llama", dict(num_attention_heads=8, rms_norm_eps=1e-5), "f16", "transformers4"),
    "llama_sharded": ("Llama", dict(tie_word_embeddings=False), "bf16", "sharded"),
    "llama_tied_embedding": ("Llama", dict(), "bf16", None),
    "llama_tied_head": ("Llama", dict(), "bf16", "head only"),
    "llama_bias": ("Llama", dict(attention_bias=True, mlp_bias=True), "f32", None),
    "llama_no_prefix": ("Llama", dict(), "bf16", "no prefix"),
    "mistral": ("Mistral", dict(sliding_window=None, head_dim=16), "bf16", "transformers4"),
    "qwen2": ("Qwen2", dict(), "bf16", "transformers4"),
    "qwen3": ("Qwen3", dict(head_dim=24), "bf16", None),
    "head_dim_16": ("Llama", dict(num_attention_heads=2, num_key_value_heads=1), "f16", None),
    "head_dim_80": ("Llama", dict(num_attention_heads=2, num_key_value_heads=1, head_dim=80,
                                  num_hidden_layers=1), "bf16", None),
    "rope_linear": ("Llama", dict(num_hidden_layers=1, max_position_embeddings=100,
                                  rope=dict(rope_type="linear", factor=4.0)), "bf16", "transformers4"),
    "rope_dynamic": ("Llama", dict(num_hidden_layers=1, max_position_embeddings=100,
                                   rope=dict(rope_type="dynamic", factor=2.0)), "bf16", "transformers4"),
    "rope_llama3": ("Llama", dict(max_position_embeddings=320, theta=500.0, num_hidden_layers=1, num_attention_heads=2,
                                  num_key_value_heads=1,
                                  rope=dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                            original_max_position_embeddings=40)), "bf16", "transformers4"),
    "rope_yarn": ("Llama", dict(max_position_embeddings=320, theta=500.0, num_hidden_layers=1, num_attention_heads=2,
                                num_key_value_heads=1,
                                rope=dict(rope_type="yarn", factor=8.0,
                                          original_max_position_embeddings=40)), "bf16", None),
    "rope_yarn_mscale": ("Qwen2", dict(max_position_embeddings=320, theta=500.0, num_hidden_layers=1,
                                       num_attention_heads=2, num_key_value_heads=1,
                                       rope=dict(rope_type="yarn", factor=8.0, original_max_position_embeddings=40,
                                                 beta_fast=16.0, beta_slow=2.0, mscale=1.0, mscale_all_dim=0.5,
                                                 truncate=False)), "bf16", "transformers4"),
    "rope_yarn_truncate": ("Mistral", dict(sliding_window=None, max_position_embeddings=320, theta=500.0,
                                           num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
                                           rope=dict(rope_type="yarn", factor=8.0, beta_fast=1.0, beta_slow=0.1,
                                                     attention_factor=1.25,
                                                     original_max_position_embeddings=40)), "bf16", "transformers4"),
}


def build(prefix, changes, seed):
    """A model with random weights, large enough for logits of order one, and its configuration."""
    import torch
    import transformers

    changes = dict(changes)
    rope = dict(changes.pop("rope", dict(rope_type="default")), rope_theta=changes.pop("theta", 10000.0))
    settings = {**SMALL, "initializer_range": 0.2, "rope_parameters": rope, **changes}
    config = getattr(transformers, prefix + "Config")(**settings)
    torch.manual_seed(seed)
    model = getattr(transformers, prefix + "ForCausalLM")(config).eval()
    with torch.no_grad():  # norms and biases of ones and zeros would hide a missing term
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.5)
    return model


def spell_as_transformers4(path):
    """rope_parameters becomes rope_theta and rope_scaling; dtype becomes torch_dtype."""
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    rope["type"] = rope.pop("rope_type")
    config["rope_scaling"] = None if rope["type"] == "default" else rope
    config["torch_dtype"] = config.pop("dtype", "float32")
    path.write_text(json.dumps(config, indent=2) + "\n")


def rename_tensors(path, rename):
    from safetensors.torch import load_file, save_file

    save_file({rename(name): tensor for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})


def treat(folder, treatment):
    weights = folder / "model.safetensors"
    if treatment == "transformers4":
        spell_as_transformers4(folder / "config.json")
    elif treatment == "head only":
        rename_tensors(weights, lambda n: "lm_head.weight" if n == "model.embed_tokens.weight" else n)
    elif treatment == "no prefix":
        rename_tensors(weights, lambda n: n.removeprefix("model."))


def write_case(folder, name, seed, tokens):
    import torch
    from safetensors.torch import save_file

    prefix, changes, dtype, treatment = CASES[name]
    model = build(prefix, changes, seed).to(dict(f32=torch.float32, f16=torch.float16, bf16=torch.bfloat16)[dtype])
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder, max_shard_size="9KB" if treatment == "sharded" else "1GB")
    treat(folder, treatment)
    (folder / "generation_config.json").unlink(missing_ok=True)

    # Loaded again: a model converted from bf16 would keep RoPE frequencies rounded to bf16.
    loaded = type(model).from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        logits = loaded(torch.tensor([tokens]), use_cache=False).logits[0]
    save_file({"logits": logits[POSITIONS].contiguous()}, folder / "golden.safetensors")
    print(f"{name}: logits up to {logits.abs().max():.2f}, {sum(f.stat().st_size for f in folder.iterdir())} bytes")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "tests/golden/models")
    parser.add_argument("--only", choices=sorted(CASES), help="write one case")
    options = parser.parse_args()
    generator = random.Random(N_TOKENS)
    tokens = [generator.randrange(SMALL["vocab_size"]) for _ in range(N_TOKENS)]
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "tokens.json").write_text(json.dumps({"tokens": tokens, "positions": POSITIONS}) + "\n")
    for seed, name in enumerate(CASES):
        if options.only in (None, name):
            write_case(options.out / name, name, seed, tokens)


if __name__ == "__main__":
    main()
