#!/usr/bin/env python3
"""Times PyTorch's scaled_dot_product_attention, and llama.cpp's, on the CPU next to build/bin/bench, same shapes, same run.

usage: scripts/bench_peers.py [--tokens N] [--threads N] [--json]

Needs PyTorch (any build with CPU kernels), and build/bin/bench (SQUEEZE_BIN names another folder). PyTorch gets bf16 keys, values
and queries [1, heads, tokens, 128] with its own grouped-query option, and, for decoding, also the grouping done by hand (the query
heads of a group as query rows, no mask), which is the faster way to ask it; the better of the two counts. Layers are rotated so that
no cache holds them. All take turns, three times each; medians. llama.cpp (its flash attention over bf16 keys and values) is timed
where its Python binding, llama-cpp-python, is installed.
"""
import argparse
import json
import math
import os
import statistics
import subprocess
import time
from pathlib import Path

import bench_llama
import torch
import torch.nn.functional as F

BIN = Path(os.environ.get("SQUEEZE_BIN", "build/bin"))
HEAD_DIM = 128
ROTATED_BYTES = 768 << 20


def n_layers(n_kv_heads, n_tokens):
    return math.ceil(ROTATED_BYTES / (4 * n_tokens * n_kv_heads * HEAD_DIM))


def layers_of(n_kv_heads, n_tokens):
    shape = (1, n_kv_heads, n_tokens, HEAD_DIM)
    return [(torch.randn(shape, dtype=torch.bfloat16), torch.randn(shape, dtype=torch.bfloat16))
            for _ in range(n_layers(n_kv_heads, n_tokens))]


def median_ms(call, seconds=1.0):
    call()
    times = []
    start = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - start < seconds:
        before = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - before))
        if times[-1] > 3000 * seconds:
            break
    return statistics.median(times)


def torch_ms(n_query_heads, n_kv_heads, n_tokens, n_queries):
    layers = layers_of(n_kv_heads, n_tokens)
    turn = [0]

    def next_layer():
        turn[0] = (turn[0] + 1) % len(layers)
        return layers[turn[0]]

    queries = torch.randn(1, n_query_heads, n_queries, HEAD_DIM, dtype=torch.bfloat16)
    grouped = queries.reshape(1, n_kv_heads, n_query_heads // n_kv_heads * n_queries, HEAD_DIM)

    def with_option():
        keys, values = next_layer()
        return F.scaled_dot_product_attention(queries, keys, values, enable_gqa=n_query_heads != n_kv_heads)

    def by_hand():
        keys, values = next_layer()
        return F.scaled_dot_product_attention(grouped, keys, values)

    return min(median_ms(with_option), median_ms(by_hand))


def squeeze_ms(name, n_tokens, threads):
    rows = json.loads(subprocess.run([BIN / "bench", "--json", "--filter", name, "--max-tokens", str(n_tokens), "--threads",
                                      str(threads)], check=True, capture_output=True, text=True).stdout)["rows"]
    return {row["name"]: row["ms"] for row in rows}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=131072)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    libraries = bench_llama.load_libraries()
    size = f"{args.tokens >> 10}K"
    rows = []
    for n_query_heads, n_kv_heads, n_queries in ((32, 8, 1), (32, 32, 1), (28, 4, 1), (32, 8, 256)):
        shape = f"{n_query_heads}/{n_kv_heads} {size}"
        name = f"decode {shape} dense" if n_queries == 1 else f"prefill {n_queries} x {shape} dense"
        ours, theirs, llama = [], [], []
        for _ in range(3 if n_queries == 1 else 1):
            ours.append(squeeze_ms(name, args.tokens, args.threads)[name])
            theirs.append(torch_ms(n_query_heads, n_kv_heads, args.tokens, n_queries))
            if libraries:
                llama.append(bench_llama.attention_ms(libraries, torch, n_query_heads, n_kv_heads, args.tokens, n_queries,
                                                      n_layers(n_kv_heads, args.tokens), args.threads))
        rows.append({"name": name, "ms": statistics.median(ours), "torch_ms": statistics.median(theirs),
                     "times_faster": statistics.median(theirs) / statistics.median(ours)})
        if llama:
            rows[-1]["llama_ms"] = statistics.median(llama)
            rows[-1]["times_faster_than_llama"] = statistics.median(llama) / statistics.median(ours)
    if args.json:
        print(json.dumps({"torch": torch.__version__, "threads": args.threads, "rows": rows}))
        return
    print(f"PyTorch {torch.__version__}, scaled_dot_product_attention in bf16, {args.threads} threads, the better of its grouped-query option")
    print("and groups as query rows." + (" llama.cpp: flash attention over bf16 keys and values." if libraries else "") + "\n")
    print("| row | Squeeze, ms | PyTorch, ms | times faster |" + (" llama.cpp, ms | times faster |" if libraries else ""))
    print("| --- | --- | --- | --- |" + (" --- | --- |" if libraries else ""))
    for row in rows:
        line = f"| {row['name']} | {row['ms']:.1f} | {row['torch_ms']:.1f} | {row['times_faster']:.2f} |"
        print(line + (f" {row['llama_ms']:.1f} | {row['times_faster_than_llama']:.2f} |" if libraries else ""))


if __name__ == "__main__":
    main()
