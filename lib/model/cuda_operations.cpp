// One launch per operation, two for the heads' rotation; nothing waits for the device but download(). What is asked for
// again and again on the same memory (a token's pass) is one graph.
#include "lib/model/cuda_operations.hpp"

#include <algorithm>

#include "kernels/cuda/attend_prefill.hpp"
#include "kernels/cuda/cuda.hpp"
#include "kernels/cuda/forward_ops.hpp"
#include "lib/core/error.hpp"
#include "lib/model/cuda_device_operations.hpp"

namespace squeeze {
namespace {

constexpr int64_t kUploadRows = 1024;  // converted at a time
constexpr int kBlockTokens = 64;       // of a prefill, that read keys together

const uint16_t* bits(TensorView bf16) { return static_cast<const uint16_t*>(bf16.data()); }

}  // namespace

TensorView CudaOperations::matrix(TensorView host) {
  if (!host.data()) return {};
  Tensor& own = matrices_.emplace_back(DType::bf16, host.shape(), memory());
  if (host.dtype() == DType::bf16) {
    stream_.upload(host.data(), host.n_bytes(), own.data());
  } else {
    for (int64_t row = 0; row < host.size(0); row += kUploadRows) {
      const Tensor rounded = convert(host.slice(row, std::min(host.size(0), row + kUploadRows)), DType::bf16);
      stream_.upload(rounded.data(), rounded.n_bytes(), own.at(row * host.size(1)));
    }
  }
  cuda::synchronize(stream_.get());
  return own;
}

Tensor CudaOperations::vector(TensorView host) {
  return host.data() ? upload(convert(host, DType::f32)) : Tensor(memory());
}

Tensor CudaOperations::upload(Tensor host) {
  Tensor own(host.dtype(), host.shape(), memory());
  stream_.upload(host.data(), host.n_bytes(), own.data());
  cuda::synchronize(stream_.get());
  return own;
}

Tensor CudaOperations::clone(TensorView x) {
  Tensor own(x.dtype(), x.shape(), memory());
  copy(x, own.data());
  return own;
}

void CudaOperations::copy(TensorView x, void* to) { cuda::copy_on_device(to, x.data(), x.n_bytes(), stream_.get()); }

TensorView CudaOperations::download(TensorView x) {
  host_.resize(x.dtype(), x.shape());
  stream_.download(x.data(), x.n_bytes(), host_.data());
  return host_;
}

void CudaOperations::embed(TensorView table, std::span<const int32_t> tokens, Tensor& out) {
  const auto n = std::ssize(tokens);
  out.resize(DType::f32, {n, table.size(1)});
  set_tokens(tokens);
  cuda::embed(table.data(), table.dtype(), own_tokens_.data(), n, table.size(1), out.f32(), stream_.get());
}

void CudaOperations::set_tokens(std::span<const int32_t> tokens) {
  if (std::ranges::equal(tokens_, tokens)) return;
  tokens_.assign(tokens.begin(), tokens.end());
  own_tokens_.filled(tokens_, stream_);
}

uint16_t* CudaOperations::input(const Shape& shape) {
  input_.resize(DType::bf16, shape);
  return static_cast<uint16_t*>(input_.data());
}

TensorView CudaOperations::rounded(TensorView x) {
  cuda::round_rows(x.f32(), x.n_elements(), input(x.shape()), stream_.get());
  return input_;
}

TensorView CudaOperations::normalised(TensorView x, TensorView weight, float eps) {
  cuda::rms_norm(x.f32(), weight.f32(), x.size(0), x.size(1), eps, input(x.shape()), stream_.get());
  return input_;
}

TensorView CudaOperations::gated(Tensor& gate, TensorView up) {
  cuda::swiglu(gate.f32(), up.f32(), gate.n_elements(), input(gate.shape()), stream_.get());
  return input_;
}

void CudaOperations::linear(TensorView x, TensorView weights, TensorView bias, Tensor& out) {
  out.resize(DType::f32, {x.size(0), weights.size(0)});
  matmul_({.x = bits(x),
           .weights = bits(weights),
           .bias = bias.data() ? bias.f32() : nullptr,
           .n_rows = x.size(0),
           .out_features = weights.size(0),
           .in_features = weights.size(1),
           .out = out.f32()},
          stream_.get());
}

void CudaOperations::set_angles(std::span<const int64_t> positions, const Rope& rope, int64_t head_dim) {
  const int64_t n = std::ssize(positions), half = head_dim / 2;
  if (std::ranges::equal(angles_.positions, positions) && angles_.sequence_length == rope.sequence_length()) return;
  std::vector<float> cosines(static_cast<size_t>(n * half)), sines(cosines.size());
  for (int64_t i = 0; i < n; ++i) {
    rope.angles(positions[static_cast<size_t>(i)], cosines.data() + i * half, sines.data() + i * half);
  }
  angles_.cosines.filled(cosines, stream_);
  angles_.sines.filled(sines, stream_);
  angles_.positions.assign(positions.begin(), positions.end());
  angles_.sequence_length = rope.sequence_length();
}

void CudaOperations::rotate_heads(Tensor& heads, TensorView norm, const HeadRotation& r) {
  cuda::rotate_heads({.heads = heads.f32(),
                      .stride = heads.size(1),
                      .n = heads.size(0),
                      .n_heads = static_cast<int>(heads.size(1) / r.head_dim),
                      .dim = static_cast<int>(r.head_dim),
                      .norm = norm.data() ? norm.f32() : nullptr,
                      .eps = r.eps,
                      .cosines = angles_.cosines.data(),
                      .sines = angles_.sines.data()},
                     stream_.get());
}

void CudaOperations::rotate(const HeadRotation& rotation) {
  set_angles(rotation.positions, rotation.rope, rotation.head_dim);
  rotate_heads(rotation.queries, rotation.query_norm, rotation);
  rotate_heads(rotation.keys, rotation.key_norm, rotation);
}

void CudaOperations::choose(TensorView logits) {
  chosen_.resize(static_cast<size_t>(logits.size(0)));
  cuda::greedy(logits.f32(), logits.size(0), logits.size(1), own_chosen_.resized(chosen_.size()), stream_.get());
}

std::span<const int32_t> CudaOperations::chosen() {
  stream_.download(own_chosen_.data(), chosen_.size() * sizeof(int32_t), chosen_.data());
  return chosen_;
}

void CudaOperations::prepare(std::span<const int32_t> tokens, std::span<const int64_t> positions, const Rope& rope,
                             int64_t head_dim) {
  set_tokens(tokens);
  set_angles(positions, rope, head_dim);
}

void CudaOperations::repeat(const std::vector<const void*>& key, const std::function<void()>& compute) {
  graphs_ ? stream_.repeat(key, compute) : compute();
}

void CudaOperations::add(TensorView delta, float* x) {
  cuda::add(delta.f32(), nullptr, delta.n_elements(), delta.n_elements(), x, stream_.get());
}

void CudaOperations::store_rows(TensorView rows, int64_t first_row, Tensor& cache) {
  if (cache.dtype() != DType::bf16 && cache.dtype() != DType::f16) {
    fail("a CUDA device keeps keys and values in bf16 or f16, found {}", name_of(cache.dtype()));
  }
  cuda::append_rows({.rows = rows.f32(),
                     .stride = rows.size(1) * rows.size(2),
                     .n = rows.size(0),
                     .n_heads = static_cast<int>(rows.size(1)),
                     .dim = static_cast<int>(rows.size(2)),
                     .cache = cache.data(),
                     .dtype = cache.dtype(),
                     .capacity = cache.size(1),
                     .first = nullptr,
                     .first_row = first_row},
                    stream_.get());
}

void CudaOperations::causal_attention(TensorView queries, std::span<const CachePart> parts, float softmax_scale,
                                      Tensor& out) {
  const CachePart& own = parts.back();
  const auto n = static_cast<int>(queries.size(0)), n_query_heads = static_cast<int>(queries.size(1));
  const auto n_kv_heads = static_cast<int>(own.keys.size(0)), dim = static_cast<int>(queries.size(2));
  out.resize(DType::f32, queries.shape());
  cuda::AttendPrefillArgs args = {};
  args.queries = queries.f32();
  args.n_queries = n;
  args.n_query_heads = n_query_heads;
  args.n_kv_heads = n_kv_heads;
  args.head_dim = dim;
  args.scale = softmax_scale;
  args.dtype = own.keys.dtype();
  args.block_tokens = kBlockTokens;
  if (parts.size() > 1) {
    const size_t n_works = static_cast<size_t>((n + kBlockTokens - 1) / kBlockTokens * n_kv_heads);
    args.keys = parts[0].keys.data();
    args.values = parts[0].values.data();
    args.n_tokens = parts[0].keys.size(1);
    args.n_rows = n_rows_.filled(std::vector<int32_t>(n_works, static_cast<int32_t>(parts[0].n_rows)), stream_);
  }
  args.tail_keys = own.keys.data();
  args.tail_values = own.values.data();
  args.tail_capacity = own.keys.size(1);
  args.n_tail_before = static_cast<int>(own.n_rows) - n;
  args.out = out.f32();
  args.workspace = workspace_.of(cuda::attend_prefill_workspace_bytes(n, n_query_heads, n_kv_heads, dim, kBlockTokens),
                                 {n, n_query_heads, n_kv_heads, dim}, stream_);
  cuda::attend_prefill(args, stream_.get());
}

std::unique_ptr<Operations> cuda_operations(bool graphs) {
  if (const char* problem = cuda_problem()) fail("{}", problem);
  return std::make_unique<CudaOperations>(graphs);
}

}  // namespace squeeze
