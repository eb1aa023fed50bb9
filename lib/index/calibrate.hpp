// Measures a calibration with recorded queries.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "lib/index/calibration.hpp"
#include "lib/index/head_index.hpp"

namespace squeeze {

// What calibration needs of one layer. The views stay valid until the next load.
struct CalibrationLayer {
  std::vector<HeadView> heads;  // [n_kv_heads]; keys and values are not read
  TensorView queries;           // [n_query_heads, n_queries, head_dim], queries that see every clustered token
  std::vector<int64_t> first_query = {};  // where each question begins: blocks do not span two; empty: one run
};

struct CalibrationOptions {
  float softmax_scale = 0;
  std::vector<double> upper_keep;  // per upper stage, in (0, 1], not growing; empty: powers of kDefaultUpperKeep, so
                                   // that each level lets that share of what reaches it through, and
                                   // kDefaultSketchKeep above the sketches
  std::vector<int> block_sizes = {1, 4, 32};  // more than n_queries: n_queries; the last block may be shorter
  std::string source = "window";
  GqaSelect gqa = GqaSelect::group_mean;
};

inline constexpr double kDefaultUpperKeep = 0.75;
inline constexpr double kDefaultSketchKeep = 0.5;

// Loads every layer once per stage, once for the shares, and layer 0 once more. Deterministic over threads. Memory: one
// layer at a time, and 4 MiB per level and block size. Throws if a query is not finite or layers do not match one
// another.
Calibration calibrate(int n_layers, const std::function<CalibrationLayer(int layer)>& load,
                      const CalibrationOptions& options);

}  // namespace squeeze
