// The operations that the forward pass and the prefill's attention are made of, on one device: the CPU or a CUDA
// device.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "lib/attention/dense_cache.hpp"
#include "lib/core/tensor.hpp"
#include "lib/model/rope.hpp"

namespace squeeze {

enum class Precision { f32, bf16 };

// QK-norm, if there are weights, and RoPE of the heads of n tokens, in place.
struct HeadRotation {
  const Rope& rope;
  std::span<const int64_t> positions;  // [n]
  int64_t head_dim;
  Tensor& queries;                  // f32 [n, n_query_heads * head_dim]
  Tensor& keys;                     // f32 [n, n_kv_heads * head_dim]
  TensorView query_norm, key_norm;  // f32 [head_dim], or without data
  float eps;
};

// Tensors and views are in memory() unless they are called host. The memory of an `out` is kept if it suffices. Views
// that are returned are valid until the next call of the same function (normalised, gated and rounded share theirs).
// One caller at a time.
class Operations {
 public:
  virtual ~Operations() = default;
  virtual Precision precision() const = 0;
  virtual const MemorySpace& memory() const = 0;

  // A model's matrix [rows, columns] (host, which outlives this) as embed() and linear() read it, and a vector, in f32;
  // without data if there is none.
  virtual TensorView matrix(TensorView host) = 0;
  virtual Tensor vector(TensorView host) = 0;

  virtual Tensor upload(Tensor host) = 0;
  virtual Tensor clone(TensorView x) = 0;
  virtual void copy(TensorView x, void* to) = 0;
  virtual TensorView download(TensorView x) = 0;  // to the host; waits for all that was asked for

  // out: f32 [n, size] from a table [vocab, size]. The tokens (host) are in the vocabulary.
  virtual void embed(TensorView table, std::span<const int32_t> tokens, Tensor& out) = 0;

  // What linear() takes, in one precision: f32 x [n, size] as it is, or rounded to bf16.
  virtual TensorView rounded(TensorView x) = 0;
  virtual TensorView normalised(TensorView x, TensorView weight, float eps) = 0;  // RMSNorm
  virtual TensorView gated(Tensor& gate, TensorView up) = 0;  // SwiGLU: silu(gate) * up; may overwrite gate

  // out, f32 [n, rows of weights], from x, weights [out, in] and bias, f32 [out] or without data.
  virtual void linear(TensorView x, TensorView weights, TensorView bias, Tensor& out) = 0;
  virtual void rotate(const HeadRotation& rotation) = 0;
  virtual void add(TensorView delta, float* x) = 0;  // x += delta

  // Rows [n, n_heads, head_dim] (f32) as rows [first_row, first_row + n) of a cache [n_heads, capacity, head_dim],
  // rounded to its type.
  virtual void store_rows(TensorView rows, int64_t first_row, Tensor& cache) = 0;
  // The token with the largest logit of each row, f32 [n, vocab], the lowest of equals; chosen() waits for them (host).
  // Negative where check_logits (sampler.hpp) throws, which this may do itself.
  virtual void choose(TensorView logits) = 0;
  virtual std::span<const int32_t> chosen() = 0;

  // What embed() and rotate() of these tokens read of the host is made ready beforehand, for repeat().
  virtual void prepare(std::span<const int32_t> /*tokens*/, std::span<const int64_t> /*positions*/,
                       const Rope& /*rope*/, int64_t /*head_dim*/) {}
  // Calls `compute`, or does what it did the last time; the same key says that it asks for the same operations on the
  // same memory. All it needs of the host was made ready before.
  virtual void repeat(const std::vector<const void*>& /*key*/, const std::function<void()>& compute) { compute(); }

  // Causal attention of n new tokens over one or two parts, one after the other; the new tokens are their last n rows.
  // queries and out: f32 [n, n_query_heads, head_dim].
  virtual void causal_attention(TensorView queries, std::span<const CachePart> parts, float softmax_scale,
                                Tensor& out) = 0;
};

std::unique_ptr<Operations> cpu_operations(Precision precision);

}  // namespace squeeze
