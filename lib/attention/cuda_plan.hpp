// A layer's selection rules as the kernels take them.
#pragma once

#include <vector>

#include "lib/attention/cuda_context.hpp"
#include "lib/attention/policy.hpp"

namespace squeeze {

// What a level, or the sketches, keep: a score above the threshold, or the best items that hold so many keys.
struct CudaKeep {
  float threshold = 0;
  CudaBuffer<int32_t> keys_of;  // [n_kv_heads]; without data: by threshold
};

struct CudaPlan {
  bool dense = false;            // everything; nothing is scored
  bool largest = false;          // the largest score of a query head counts, else their mean
  size_t first_level = 0;        // the levels above prune nothing and are not scored
  std::vector<CudaKeep> levels;  // of all levels, leaves included
  bool sketches = false;         // keys are chosen by their sketches, else leaves
  CudaKeep keys;                 // by sketches, unless
  CudaBuffer<int64_t> bytes_of;  // [n_kv_heads] says what may be spent on sketches and keys
  int64_t most_rows = 0;         // that a work keeps: the stride of its list
};

// For blocks of n_query_tokens. Throws if the rules need what the kernels do not have.
CudaPlan plan_layer(const CudaLayer& layer, int number, const Rules& rules, Rest rest, int64_t n_query_tokens,
                    const CudaStream& stream);

}  // namespace squeeze
