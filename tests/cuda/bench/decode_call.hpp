// Decoding over a made-up context: lookups and attention.
#pragma once

#include <vector>

#include "kernels/cuda/attend_decode.hpp"
#include "kernels/cuda/lookup.hpp"
#include "kernels/cuda/sketch_lookup.hpp"
#include "tests/cuda/bench/made_index.hpp"

namespace squeeze::cuda_bench {

// What one token reads of one layer.
struct CallBytes {
  int64_t keys = 0, index = 0;
  int64_t total() const { return keys + index; }
};

enum class Mode { dense, sparse, sketches };

// Tokens after the context, of one layer.
struct DecodeTail {
  const uint16_t *keys = nullptr, *values = nullptr;  // bf16 [n_works, capacity, kDim]
  int64_t capacity = 0;
  const int32_t* n_rows = nullptr;  // [n_works]
};

// One token's attention, layer after layer, with its buffers; or one token's of several requests over the same context.
class DecodeCall {
 public:
  // share: of the keys (sparse), or of the bytes (sketches).
  DecodeCall(const MadeIndex& index, Mode mode, double share, int n_requests = 1);

  void run_layer(int layer, Stream stream) const;
  void lookup_only(int layer, Stream stream) const;                          // all levels and sketches, no attention
  void attend_only(int layer, const DecodeTail& tail, Stream stream) const;  // over what the last lookup chose

  int n_works() const { return n_works_; }
  float* queries() const { return queries_.data(); }  // [n_works, group, kDim], random at first
  const float* out() const { return out_.data(); }    // the same

  // After run_layer and a synchronisation.
  CallBytes bytes() const;
  // The largest difference of the first query head's output, of the first and the last work, from attention in double
  // precision over what was chosen.
  double largest_error(int layer) const;

 private:
  template <class Args>
  Args with_queries() const;
  template <class Args>
  void set_pinned(Args& a) const;
  template <class Args>
  void set_rest(Args& a) const;
  cuda::LookupArgs lookup_args(int layer, size_t level) const;
  cuda::SketchLookupArgs sketch_args(int layer) const;
  cuda::AttendDecodeArgs attend_args(int layer) const;
  void add_rest(int layer, int work, std::vector<double>& acc, double& sum) const;

  const MadeIndex& index_;
  Mode mode_;
  int max_keys_ = -1;  // of the leaves
  int64_t bytes_ = 0;  // of one head, for sketches and keys
  int n_works_, group_;
  int64_t rows_stride_;
  DeviceArray<float> queries_, out_, rest_logits_, dropped_, cluster_logits_, top_logits_;
  DeviceArray<int32_t> all_rows_, rows_, n_rows_, items_, n_items_, leaves_, n_leaves_, rest_, n_rest_, n_rest_out_;
  std::vector<DeviceArray<char>> lookup_spaces_;
  DeviceArray<char> sketch_space_, attend_space_;
};

}  // namespace squeeze::cuda_bench
