"""Flash attention of llama.cpp on the CPU, through the libraries that its Python binding installs (llama-cpp-python).

Used by bench_peers.py. Calls ggml by ctypes: the binding has no function for one operation.
"""
import ctypes
import importlib.util
import statistics
import time
from pathlib import Path

F32, BF16 = 0, 30  # ggml_type
HEAD_DIM = 128


class InitParams(ctypes.Structure):
    _fields_ = [("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]


def load_libraries():
    """(ggml-base, ggml-cpu), or None if llama-cpp-python is not installed."""
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "lib"
    base = ctypes.CDLL(str(folder / "libggml-base.so"), mode=ctypes.RTLD_GLOBAL)
    cpu = ctypes.CDLL(str(folder / "libggml-cpu.so"), mode=ctypes.RTLD_GLOBAL)
    pointer, i64, f32 = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
    for library, name, result, arguments in (
            (base, "ggml_init", pointer, [InitParams]), (base, "ggml_free", None, [pointer]),
            (base, "ggml_new_tensor_4d", pointer, [pointer, ctypes.c_int, i64, i64, i64, i64]),
            (base, "ggml_get_data", pointer, [pointer]), (base, "ggml_nbytes", ctypes.c_size_t, [pointer]),
            (base, "ggml_flash_attn_ext", pointer, [pointer] * 5 + [f32] * 3), (base, "ggml_new_graph", pointer, [pointer]),
            (base, "ggml_build_forward_expand", None, [pointer, pointer]),
            (cpu, "ggml_graph_compute_with_ctx", ctypes.c_int, [pointer, pointer, ctypes.c_int]), (cpu, "ggml_cpu_init", None, [])):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    cpu.ggml_cpu_init()
    return base, cpu


def fill(base, tensor, torch, dtype):
    """Random numbers into a ggml tensor."""
    n_bytes = base.ggml_nbytes(tensor)
    values = torch.randn(n_bytes // dtype.itemsize, dtype=dtype)
    ctypes.memmove(base.ggml_get_data(tensor), values.data_ptr(), n_bytes)


def attention_ms(libraries, torch, n_query_heads, n_kv_heads, n_tokens, n_queries, n_layers, threads):
    """Median time of one layer's attention, keys and values in bf16, over n_layers in turn."""
    base, cpu = libraries
    kv_bytes = 4 * n_tokens * n_kv_heads * HEAD_DIM
    context = base.ggml_init(InitParams(n_layers * kv_bytes + (1 << 30), None, False))
    if not context:
        raise MemoryError("ggml_init")
    queries = base.ggml_new_tensor_4d(context, F32, HEAD_DIM, n_queries, n_query_heads, 1)
    fill(base, queries, torch, torch.float32)
    graphs = []
    for _ in range(n_layers):
        keys, values = (base.ggml_new_tensor_4d(context, BF16, HEAD_DIM, n_tokens, n_kv_heads, 1) for _ in range(2))
        for tensor in (keys, values):
            fill(base, tensor, torch, torch.bfloat16)
        graph = base.ggml_new_graph(context)
        base.ggml_build_forward_expand(
            graph, base.ggml_flash_attn_ext(context, queries, keys, values, None, HEAD_DIM ** -0.5, 0.0, 0.0))
        graphs.append(graph)
    times = []
    # Every call leaves a work buffer in the context: few calls, and room for them.
    for i in range(1 + max(4, n_layers)):
        before = time.perf_counter()
        if cpu.ggml_graph_compute_with_ctx(context, graphs[i % n_layers], threads) != 0:
            raise RuntimeError("ggml_graph_compute failed")
        times.append(1000 * (time.perf_counter() - before))
        if times[-1] > 5000:
            break
    base.ggml_free(context)
    return statistics.median(times[1:] or times)
