// A model of random weights, and its decoding steps over a made-up context: the kernels that lib/model/transformer.cpp
// and lib/attention/cuda_attention.cpp call, in their order.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cuda/matmul.hpp"
#include "tests/cuda/bench/decode_call.hpp"

namespace squeeze::cuda_bench {

struct ModelShape {
  int n_layers;
  int64_t hidden, intermediate, vocab;
  int n_query_heads, n_kv_heads;  // of kDim

  int64_t query_size() const { return int64_t{n_query_heads} * kDim; }
  int64_t kv_size() const { return int64_t{n_kv_heads} * kDim; }
  int64_t layer_weights() const;  // elements
  int64_t read_bytes() const;     // of weights, by one step
  int64_t bytes() const;          // of all weights: the embedding too
};

// Weights in bf16, one allocation per layer, filled on the device from a pattern of a prime number of rows: no two
// layers are alike.
class MadeModel {
 public:
  explicit MadeModel(const ModelShape& shape);

  ModelShape shape;
  std::vector<DeviceArray<uint16_t>> layers;  // q, k, v, o, gate, up, down, one behind the other
  DeviceArray<uint16_t> embedding, lm_head;   // [vocab, hidden]
  DeviceArray<float> norm;                    // ones, for every RMSNorm
};

// One token of each of n_requests, at one position behind the same context, each with a tail of its own. Layers take
// the layers of the index in turn.
class ModelStep {
 public:
  ModelStep(const MadeModel& model, const MadeIndex& index, Mode mode, double share, int n_requests);

  void run(Stream stream) const;
  // Parts of it alone, on what the last whole step left.
  void attention_only(Stream stream) const;
  void lookup_only(Stream stream) const;
  void linear_only(Stream stream) const;

  // After run and a synchronisation.
  std::vector<float> logits() const { return logits_.host(); }       // [n_requests, vocab]
  std::vector<int32_t> next_tokens() const { return next_.host(); }  // [n_requests]
  int64_t context_bytes() const { return call_.bytes().total(); }    // of a layer: keys, values and index

 private:
  struct Tail {
    DeviceArray<uint16_t> keys, values;
  };
  // A matrix of a layer's weights.
  struct Matrix {
    int64_t first, out, in;
  };
  struct Matrices {
    Matrix q, k, v, o, gate, up, down;
    explicit Matrices(const ModelShape& shape);
  };
  void multiply(const uint16_t* weights, const Matrix& matrix, float* out, Stream stream) const;
  void multiply_last(Stream stream) const;
  void normalise(Stream stream) const;
  void add_delta(Stream stream) const;
  void rotate(float* heads, int n_heads, Stream stream) const;
  void append(const float* rows, const DeviceArray<uint16_t>& cache, Stream stream) const;
  void run_attention(int layer, Stream stream) const;
  void run_mlp(int layer, Stream stream) const;
  DecodeTail tail(int layer) const;

  const MadeModel& model_;
  const MadeIndex& index_;
  int64_t n_;
  Matrices matrices_;
  DecodeCall call_;
  cuda::Matmul matmul_;
  std::vector<Tail> tails_;  // one per layer
  DeviceArray<uint16_t> input_;
  DeviceArray<float> hidden_, k_, v_, gate_, up_, delta_, logits_, cosines_, sines_;
  DeviceArray<int32_t> tokens_, next_, n_tail_;
};

}  // namespace squeeze::cuda_bench
