// The recorded queries of a layer, cut into the blocks that calibration measures.
#pragma once

#include <cstdint>
#include <vector>

#include "lib/core/tensor.hpp"
#include "lib/index/calibrate.hpp"

namespace squeeze {

// One unit of work: a block of query tokens against one KV head.
struct CalibrationBlock {
  size_t size_index;
  int64_t kv_head;
  int64_t begin, end;  // query tokens
};

// Throws unless the layer has n_queries queries, and n_levels stages in every head.
void check_layer(const CalibrationLayer& layer, int number, size_t n_levels, int64_t n_queries);
// Query heads per KV head.
int64_t group_size(const CalibrationLayer& layer);
// The blocks of every size and KV head.
std::vector<CalibrationBlock> blocks_of(const CalibrationLayer& layer, const std::vector<BlockCalibration>& sizes);
// The block's queries of every query head of the group, f32 [n_query_tokens x group_size, head_dim]. Throws if one is
// not finite.
Tensor gather_queries(const CalibrationLayer& layer, const CalibrationBlock& block, int number);

}  // namespace squeeze
