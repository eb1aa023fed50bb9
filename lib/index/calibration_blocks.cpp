// Blocks span no two questions.
#include "lib/index/calibration_blocks.hpp"

#include <algorithm>
#include <cmath>

#include "kernels/kernels.hpp"
#include "lib/core/error.hpp"

namespace squeeze {
namespace {

// Runs of queries that blocks may not span.
std::vector<CalibrationBlock> questions_of(const CalibrationLayer& layer) {
  const int64_t n_queries = layer.queries.size(1);
  std::vector<CalibrationBlock> runs;
  for (size_t i = 0; i < layer.first_query.size(); ++i) {
    const int64_t end = i + 1 < layer.first_query.size() ? layer.first_query[i + 1] : n_queries;
    runs.push_back({0, 0, layer.first_query[i], end});
  }
  if (runs.empty()) runs.push_back({0, 0, 0, n_queries});
  return runs;
}

}  // namespace

void check_layer(const CalibrationLayer& layer, int number, size_t n_levels, int64_t n_queries) {
  const Shape& shape = layer.queries.shape();
  const auto n_heads = static_cast<int64_t>(layer.heads.size());
  if (n_heads < 1 || shape.rank() != 3 || shape[0] < 1 || shape[0] % n_heads != 0 || shape[1] < 1) {
    fail("layer {}: calibration needs queries [a multiple of {} KV heads, at least 1, head_dim], found {}", number,
         n_heads, shape.str());
  }
  if (shape[1] != n_queries) fail("layer {}: expected {} calibration queries, found {}", number, n_queries, shape[1]);
  for (const HeadView& head : layer.heads) {
    if (head.n_stages() != n_levels || n_levels == 0) {
      fail("layer {}: expected {} levels of clusters in every head, found {}", number, n_levels, head.n_stages());
    }
  }
}

int64_t group_size(const CalibrationLayer& layer) {
  return layer.queries.size(0) / static_cast<int64_t>(layer.heads.size());
}

std::vector<CalibrationBlock> blocks_of(const CalibrationLayer& layer, const std::vector<BlockCalibration>& sizes) {
  std::vector<CalibrationBlock> blocks;
  for (size_t i = 0; i < sizes.size(); ++i) {
    for (int64_t h = 0; h < static_cast<int64_t>(layer.heads.size()); ++h) {
      for (const CalibrationBlock& run : questions_of(layer)) {
        for (int64_t begin = run.begin; begin < run.end; begin += sizes[i].block_size) {
          blocks.push_back({i, h, begin, std::min(run.end, begin + sizes[i].block_size)});
        }
      }
    }
  }
  return blocks;
}

Tensor gather_queries(const CalibrationLayer& layer, const CalibrationBlock& block, int number) {
  const int64_t group = group_size(layer);
  const int64_t dim = layer.queries.size(2);
  Tensor out(DType::f32, {group * (block.end - block.begin), dim});
  float* row = out.f32();
  for (int64_t t = block.begin; t < block.end; ++t) {
    for (int64_t g = 0; g < group; ++g, row += dim) {
      const TensorView query = layer.queries[block.kv_head * group + g][t];
      kernels().to_f32(query.data(), query.dtype(), dim, row);
    }
  }
  for (int64_t i = 0; i < out.n_elements(); ++i) {
    if (!std::isfinite(out.f32()[i])) {
      fail("layer {}, KV head {}: a calibration query is not finite (NaN or infinity); dump the text again", number,
           block.kv_head);
    }
  }
  return out;
}

}  // namespace squeeze
