// What kernels().sketch_scores looks up for each query.
#pragma once

#include <cstdint>
#include <vector>

#include "lib/index/head_index.hpp"

namespace squeeze {

struct SketchTables {
  std::vector<uint8_t> entries;      // [n, 32 * code_bytes]
  std::vector<float> scales;         // [n] of the dots, softmax_scale included
  Tensor rotated = {};               // f32 [n, head_dim], of queries that have to be
  std::vector<float> products = {};  // of one query, [n_groups, 16]
};

// Tables such that sketch_scores adds softmax_scale * scale * q·c for the vector c that a code stands for (lib/index/
// sketch.hpp). An entry is what q has in common with an entry of a codebook, in steps of 1/31 of the query's largest:
// rounding it adds a few thousandths to the variance of an estimate. queries: f32 [n, head_dim]. reused: old tables,
// for their memory. Throws if a query is not finite.
SketchTables sketch_tables(TensorView queries, const SketchView& sketches, float softmax_scale,
                           SketchTables reused = {});

}  // namespace squeeze
