// Memory-bound loops: a block per row, or threads over elements.
#include "kernels/cuda/forward_ops.hpp"

#include <stdexcept>
#include <string>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/warp.cuh"

namespace squeeze::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kGreedyThreads = 1024;
constexpr int kMaxWarps = kGreedyThreads / kWarpSize;

__device__ inline float load(const void* data, DType dtype, int64_t i) {
  if (dtype == DType::f32) return static_cast<const float*>(data)[i];
  const uint32_t bits = static_cast<const uint16_t*>(data)[i];
  return dtype == DType::bf16 ? unpack_low(bits, BF16{}) : unpack_low(bits, F16{});
}

__device__ inline uint16_t to_bf16(float x) { return static_cast<uint16_t>(pack(x, 0.0f, BF16{})); }

__device__ inline int64_t first_element() { return static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; }
__device__ inline int64_t element_step() { return static_cast<int64_t>(gridDim.x) * kThreads; }

unsigned blocks_for(int64_t n) {
  const int64_t blocks = (n + kThreads - 1) / kThreads, most = int64_t{32} * device_limits().n_multiprocessors;
  return static_cast<unsigned>(blocks < most ? blocks : most);
}

struct EmbedArgs {
  const void* table;
  DType dtype;
  const int32_t* tokens;
  int64_t n, size;
  float* out;
};
__global__ void __launch_bounds__(kThreads) embed_kernel(EmbedArgs a) {
  for (int64_t i = first_element(); i < a.n * a.size; i += element_step()) {
    a.out[i] = load(a.table, a.dtype, a.tokens[i / a.size] * a.size + i % a.size);
  }
}

struct NormArgs {
  const float *x, *weight;
  int64_t size;
  float eps;
  uint16_t* out;
};
__global__ void __launch_bounds__(kThreads) rms_norm_kernel(NormArgs a) {
  auto* of_warps = reinterpret_cast<float*>(shared_memory());
  const float* x = a.x + static_cast<int64_t>(blockIdx.x) * a.size;
  float squares = 0.0f;
  for (int64_t c = threadIdx.x; c < a.size; c += kThreads) squares += x[c] * x[c];
  squares = warp_sum(squares);
  if (threadIdx.x % kWarpSize == 0) of_warps[threadIdx.x / kWarpSize] = squares;
  __syncthreads();
  float all = 0.0f;
  for (int w = 0; w < kWarps; ++w) all += of_warps[w];
  const float factor = 1.0f / sqrtf(all / static_cast<float>(a.size) + a.eps);
  uint16_t* out = a.out + static_cast<int64_t>(blockIdx.x) * a.size;
  for (int64_t c = threadIdx.x; c < a.size; c += kThreads) out[c] = to_bf16(x[c] * factor * a.weight[c]);
}

// A warp per head of a token.
__global__ void __launch_bounds__(kThreads) rotate_kernel(RotateArgs a) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize, half = a.dim / 2;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kWarps;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarpSize; i < a.n * a.n_heads;
       i += step) {
    const int64_t token = i / a.n_heads;
    float* x = a.heads + token * a.stride + i % a.n_heads * a.dim;
    float factor = 1.0f;
    if (a.norm) {
      float squares = 0.0f;
      for (int c = lane; c < a.dim; c += kWarpSize) squares += x[c] * x[c];
      factor = 1.0f / sqrtf(warp_sum(squares) / static_cast<float>(a.dim) + a.eps);
    }
    for (int c = lane; c < half; c += kWarpSize) {
      const float low = a.norm ? x[c] * factor * a.norm[c] : x[c];
      const float high = a.norm ? x[c + half] * factor * a.norm[c + half] : x[c + half];
      const float cosine = a.cosines[token * half + c], sine = a.sines[token * half + c];
      x[c] = low * cosine - high * sine;
      x[c + half] = high * cosine + low * sine;
    }
  }
}

__device__ void store_float(float x, DType dtype, void* cache, int64_t at) {
  const uint32_t bits = dtype == DType::bf16 ? pack(x, 0.0f, BF16{}) : pack(x, 0.0f, F16{});
  static_cast<uint16_t*>(cache)[at] = static_cast<uint16_t>(bits);
}

__global__ void __launch_bounds__(kThreads) append_kernel(AppendArgs a) {
  const int64_t row = static_cast<int64_t>(a.n_heads) * a.dim;
  const int64_t before = a.first ? *a.first : a.first_row;
  for (int64_t i = first_element(); i < a.n * row; i += element_step()) {
    const int64_t token = i / row, head = i % row / a.dim, c = i % a.dim;
    store_float(a.rows[token * a.stride + i % row], a.dtype, a.cache, (head * a.capacity + before + token) * a.dim + c);
  }
}

__global__ void __launch_bounds__(kThreads) append_each_kernel(AppendEachArgs a) {
  const int64_t n = a.n * a.n_heads * a.dim;
  for (int64_t i = first_element(); i < n; i += element_step()) {
    const int64_t cache = i / a.dim, at = (int64_t{a.lengths[cache]} - 1) * a.dim + i % a.dim;
    store_float(a.keys[i], a.dtype, a.key_caches[cache], at);
    store_float(a.values[i], a.dtype, a.value_caches[cache], at);
  }
}

struct SwigluArgs {
  const float *gate, *up;
  int64_t n;
  uint16_t* out;
};
__global__ void __launch_bounds__(kThreads) swiglu_kernel(SwigluArgs a) {
  for (int64_t i = first_element(); i < a.n; i += element_step()) {
    a.out[i] = to_bf16(a.gate[i] / (1.0f + exp2_fast(-a.gate[i] * kLog2E)) * a.up[i]);
  }
}

struct AddArgs {
  const float *delta, *bias;
  int64_t n, size;
  float* x;
};
__global__ void __launch_bounds__(kThreads) add_kernel(AddArgs a) {
  for (int64_t i = first_element(); i < a.n; i += element_step()) {
    a.x[i] += a.bias ? a.delta[i] + a.bias[i % a.size] : a.delta[i];
  }
}

struct RoundArgs {
  const float* x;
  int64_t n;
  uint16_t* out;
};
__global__ void __launch_bounds__(kThreads) round_kernel(RoundArgs a) {
  for (int64_t i = first_element(); i < a.n; i += element_step()) a.out[i] = to_bf16(a.x[i]);
}

// Where element i of [n_tokens, n_kv_heads, group, dim] is in [n_blocks, n_kv_heads, block_tokens, group, dim].
__device__ inline int64_t place_in_blocks(const RegroupArgs& a, int64_t i) {
  const int64_t size = static_cast<int64_t>(a.group) * a.dim;
  const int64_t token = i / size / a.n_kv_heads, head = i / size % a.n_kv_heads;
  const int64_t block = token / a.block_tokens, of_block = token % a.block_tokens;
  return ((block * a.n_kv_heads + head) * a.block_tokens + of_block) * size + i % size;
}
struct RegroupKernelArgs {
  RegroupArgs of;
  int64_t n;
  bool to_blocks;
};
__global__ void __launch_bounds__(kThreads) regroup_kernel(RegroupKernelArgs a) {
  for (int64_t i = first_element(); i < a.n; i += element_step()) {
    const int64_t in_blocks = place_in_blocks(a.of, i);
    a.of.out[a.to_blocks ? in_blocks : i] = a.of.in[a.to_blocks ? i : in_blocks];
  }
}

// A block per count.
__global__ void __launch_bounds__(kThreads) count_kernel(CountArgs a) {
  const int i_count = static_cast<int>(blockIdx.x) % a.n_counts, request = static_cast<int>(blockIdx.x) / a.n_counts;
  const int32_t* counts = a.counts[i_count] + static_cast<int64_t>(request) * a.n;
  int64_t sum = 0;
  for (int i = static_cast<int>(threadIdx.x); i < a.n; i += kThreads) sum += counts[i];
  sum = warp_sum(sum);
  if (threadIdx.x % kWarpSize == 0) atomic_add(a.totals_of[request] + a.slots[i_count], sum);
}

struct GreedyArgs {
  const float* x;
  int64_t size;
  int32_t* out;
};
struct GreedyShared {
  Best best[kMaxWarps];
  bool refused[kMaxWarps];
};
// A block per row.
__global__ void __launch_bounds__(kGreedyThreads) greedy_kernel(GreedyArgs a) {
  auto& shared = *reinterpret_cast<GreedyShared*>(shared_memory());
  const float* x = a.x + static_cast<int64_t>(blockIdx.x) * a.size;
  Best own;
  bool refused = false;
  for (int64_t c = threadIdx.x; c < a.size; c += kGreedyThreads) {
    own.add(x[c], static_cast<int32_t>(c));
    refused = refused || !(x[c] < INFINITY);  // NaN too
  }
  for (int other = 1; other < kWarpSize; other *= 2) own.add_lane(other);
  refused = __any_sync(kAllLanes, refused) != 0;
  if (threadIdx.x % kWarpSize == 0) {
    shared.best[threadIdx.x / kWarpSize] = own;
    shared.refused[threadIdx.x / kWarpSize] = refused;
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int w = 1; w < kGreedyThreads / kWarpSize; ++w) {
    own.add(shared.best[w].score, shared.best[w].index);
    refused = refused || shared.refused[w];
  }
  a.out[blockIdx.x] = refused || own.score == -INFINITY ? -1 : own.index;
}

void regroup(const RegroupArgs& args, bool to_blocks, Stream stream) {
  if (args.n_tokens % args.block_tokens != 0) {
    throw std::invalid_argument("expected whole blocks of " + std::to_string(args.block_tokens) + " tokens, found " +
                                std::to_string(args.n_tokens) + " tokens");
  }
  const int64_t n = args.n_tokens * args.n_kv_heads * args.group * args.dim;
  if (n == 0) return;
  launch(regroup_kernel, {.grid_x = blocks_for(n), .threads = kThreads}, stream, RegroupKernelArgs{args, n, to_blocks});
}

}  // namespace

void embed(const void* table, DType dtype, const int32_t* tokens, int64_t n, int64_t size, float* out, Stream stream) {
  if (dtype == DType::i8) throw std::invalid_argument("embed: expected a table of f32, f16 or bf16");
  if (n * size == 0) return;
  launch(embed_kernel, {.grid_x = blocks_for(n * size), .threads = kThreads}, stream,
         EmbedArgs{table, dtype, tokens, n, size, out});
}

void rms_norm(const float* x, const float* weight, int64_t n, int64_t size, float eps, uint16_t* out, Stream stream) {
  if (n == 0) return;
  launch(rms_norm_kernel,
         {.grid_x = static_cast<unsigned>(n), .threads = kThreads, .shared_bytes = kWarps * sizeof(float)}, stream,
         NormArgs{x, weight, size, eps, out});
}

void rotate_heads(const RotateArgs& args, Stream stream) {
  if (args.n == 0) return;
  launch(rotate_kernel, {.grid_x = blocks_for(args.n * args.n_heads * kWarpSize), .threads = kThreads}, stream, args);
}

void append_rows(const AppendArgs& args, Stream stream) {
  if (args.dtype != DType::bf16 && args.dtype != DType::f16) {
    throw std::invalid_argument("append_rows: expected a cache of f16 or bf16");
  }
  if (args.n == 0) return;
  launch(append_kernel, {.grid_x = blocks_for(args.n * args.n_heads * args.dim), .threads = kThreads}, stream, args);
}

void append_each(const AppendEachArgs& args, Stream stream) {
  if (args.n == 0) return;
  launch(append_each_kernel, {.grid_x = blocks_for(args.n * args.n_heads * args.dim), .threads = kThreads}, stream,
         args);
}

void swiglu(const float* gate, const float* up, int64_t n, uint16_t* out, Stream stream) {
  if (n == 0) return;
  launch(swiglu_kernel, {.grid_x = blocks_for(n), .threads = kThreads}, stream, SwigluArgs{gate, up, n, out});
}

void add(const float* delta, const float* bias, int64_t n, int64_t size, float* x, Stream stream) {
  if (n == 0) return;
  launch(add_kernel, {.grid_x = blocks_for(n), .threads = kThreads}, stream, AddArgs{delta, bias, n, size, x});
}

void round_rows(const float* x, int64_t n, uint16_t* out, Stream stream) {
  if (n == 0) return;
  launch(round_kernel, {.grid_x = blocks_for(n), .threads = kThreads}, stream, RoundArgs{x, n, out});
}

void group_blocks(const RegroupArgs& args, Stream stream) { regroup(args, true, stream); }
void ungroup_blocks(const RegroupArgs& args, Stream stream) { regroup(args, false, stream); }

void add_counts(const CountArgs& args, Stream stream) {
  if (args.n_counts < 0 || args.n_counts > CountArgs::kMost) {
    throw std::invalid_argument("add_counts: expected at most " + std::to_string(CountArgs::kMost) + " counts, found " +
                                std::to_string(args.n_counts));
  }
  if (args.n_counts == 0 || args.n <= 0 || args.n_requests <= 0) return;
  launch(count_kernel, {.grid_x = static_cast<unsigned>(args.n_counts * args.n_requests), .threads = kThreads}, stream,
         args);
}

void greedy(const float* x, int64_t n, int64_t size, int32_t* out, Stream stream) {
  if (n == 0) return;
  launch(greedy_kernel,
         {.grid_x = static_cast<unsigned>(n), .threads = kGreedyThreads, .shared_bytes = sizeof(GreedyShared)}, stream,
         GreedyArgs{x, size, out});
}

}  // namespace squeeze::cuda
