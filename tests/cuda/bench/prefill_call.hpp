// A question of many tokens over one layer of a made-up context: lookup by blocks of tokens, then attention.
#pragma once

#include "kernels/cuda/attend_prefill.hpp"
#include "kernels/cuda/block_lookup.hpp"
#include "tests/cuda/bench/made_index.hpp"

namespace squeeze::cuda_bench {

inline constexpr int kBlockTokens = 64;  // that share a selection

class PrefillCall {
 public:
  // share: of the keys; 1: all of them, without a lookup.
  PrefillCall(const MadeIndex& index, int n_queries, double share);

  void run_layer(int layer, Stream stream) const;

  // After run_layer and a synchronisation. Multiply-adds count two; the lookup's are not counted.
  double attention_flops() const;
  // The largest difference of one head of the first and of the last token from attention in double precision over what
  // was chosen.
  double largest_error(int layer) const;

 private:
  template <class Args>
  Args with_queries() const;
  bool dense() const { return max_keys_ < 0; }

  const MadeIndex& index_;
  int n_queries_, n_works_, max_keys_;
  int64_t rows_stride_;
  DeviceArray<float> queries_, out_;
  DeviceArray<int32_t> rows_, n_rows_;
  DeviceArray<uint16_t> tail_;  // the question's own keys, also its values
  DeviceArray<char> lookup_space_, attend_space_;
};

}  // namespace squeeze::cuda_bench
