#!/usr/bin/env python3
"""Times PyTorch's scaled_dot_product_attention on the GPU, each backend, on the shapes of the CUDA benchmark.

Decoding (one query token) and question prefill (1K and 4K tokens, not causal: the questions' own keys are left out) over
dense contexts in bf16, 32/8 and 32/32 heads of 128. Per shape and backend: the median time of a call by CUDA events,
after a warm-up, over several copies of the keys and values so that no cache holds them.

usage: scripts/bench_cuda_peers.py [--json FILE] [--max-tokens N]
example: scripts/bench_cuda_peers.py --max-tokens 131072
"""

import argparse
import json
import statistics

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
HEAD_DIM = 128
ROTATED_BYTES = 1 << 30


def median_ms(call, repeats):
    """The median time of call(i), i = 0, 1, ... in milliseconds."""
    for i in range(3):
        call(i)
    times = []
    for i in range(repeats):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        call(i)
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


def rows_of(n_query_heads, n_kv_heads, n_tokens):
    bytes_of_layer = 4 * n_tokens * n_kv_heads * HEAD_DIM
    n_layers = max(1, min(16, -(-ROTATED_BYTES // bytes_of_layer)))
    shape = (n_layers, 1, n_kv_heads, n_tokens, HEAD_DIM)
    keys, values = (torch.randn(shape, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    tokens = f"{n_tokens >> 10}K"
    for n_queries, kind in ((1, "decode"), (1024, "prefill 1K"), (4096, "prefill 4K")):
        queries = torch.randn((1, n_query_heads, n_queries, HEAD_DIM), device="cuda", dtype=torch.bfloat16)

        def call(i):
            layer = i % n_layers
            return scaled_dot_product_attention(
                queries, keys[layer], values[layer], enable_gqa=n_query_heads != n_kv_heads
            )

        for name, backend in BACKENDS.items():
            row = {"name": f"{kind} {n_query_heads}/{n_kv_heads} {tokens} torch {name}"}
            try:
                with sdpa_kernel([backend]):
                    ms = median_ms(call, 25 if n_queries == 1 else 5)
                row |= {"us": 1e3 * ms, "gbps": bytes_of_layer / ms / 1e6}
            except RuntimeError as error:
                row |= {"error": str(error).splitlines()[0]}
            yield row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="write the rows here too")
    parser.add_argument("--max-tokens", type=int, default=1 << 19)
    options = parser.parse_args()
    rows = []
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    for n_query_heads, n_kv_heads in ((32, 8), (32, 32)):
        for n_tokens in (1 << 15, 1 << 17, 1 << 19):
            if n_tokens > options.max_tokens:
                continue
            for row in rows_of(n_query_heads, n_kv_heads, n_tokens):
                rows.append(row)
                figures = row.get("error") or f"{row['us']:10.1f} us {row['gbps']:8.1f} GB/s"
                print(f"{row['name']:40} {figures}", flush=True)
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"torch": torch.__version__, "gpu": torch.cuda.get_device_name(), "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
