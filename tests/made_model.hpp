// A model of two indexed layers with calibration queries, for the tests of calibration and of the policies on top.
#pragma once

#include <algorithm>
#include <vector>

#include "lib/attention/lookup.hpp"
#include "lib/index/calibrate.hpp"
#include "tests/made_sketches.hpp"

namespace squeeze {

// Two layers of two KV heads with 800 clustered keys of 8 dimensions.
struct MadeModel {
  static constexpr float kScale = 0.35f;
  std::vector<IndexLayer> layers;
  std::vector<Tensor> queries;  // [n_query_heads, n_queries, head_dim]
  std::vector<int64_t> first_query = {};

  CalibrationLayer load(int layer) const {
    return {heads_of(layers[static_cast<size_t>(layer)]), queries[static_cast<size_t>(layer)], first_query};
  }
  Calibration calibrated(CalibrationOptions options = {}) const {
    options.softmax_scale = kScale;
    return calibrate(
        static_cast<int>(layers.size()), [&](int layer) { return load(layer); }, options);
  }
  int64_t group_size() const { return queries[0].size(0) / 2; }
};

struct MadeModelOptions {
  SketchedOptions index;
  bool structured = true;
  int64_t n_queries = 40;
  int64_t group_size = 2;
  int64_t head_dim = 8;
};

inline MadeModel made_model(const MadeModelOptions& o) {
  MadeModel model;
  for (unsigned layer = 0; layer < 2; ++layer) {
    const Tensor keys = o.structured ? topic_keys(2, 812, o.head_dim, 30, layer, DType::bf16)
                                     : random_tensor({2, 812, o.head_dim}, layer, DType::bf16);
    model.layers.push_back(build_layer(keys, keys, options_of(o.index)));
    model.queries.push_back(o.structured ? topic_keys(2 * o.group_size, o.n_queries, o.head_dim, 30, layer)
                                         : random_tensor({2 * o.group_size, o.n_queries, o.head_dim}, 90 + layer));
  }
  return model;
}

// The rows that a block of query tokens [begin, end) of one KV head brings: token by token, a token's heads together.
inline Tensor block_queries(const CalibrationLayer& layer, int64_t kv_head, int64_t begin, int64_t end) {
  const int64_t dim = layer.queries.size(2);
  const int64_t group = layer.queries.size(0) / static_cast<int64_t>(layer.heads.size());
  Tensor rows(DType::f32, {group * (end - begin), dim});
  float* out = rows.f32();
  for (int64_t t = begin; t < end; ++t) {
    for (int64_t g = 0; g < group; ++g, out += dim) {
      std::copy_n(layer.queries[kv_head * group + g][t].f32(), dim, out);
    }
  }
  return rows;
}

// Calls body(layer, kv_head, head, queries, n_query_tokens) for every block of every head; blocks span no two
// questions.
template <class Body>
void for_each_block(const MadeModel& model, int64_t block_size, const Body& body) {
  for (int l = 0; l < static_cast<int>(model.layers.size()); ++l) {
    const CalibrationLayer layer = model.load(l);
    std::vector<int64_t> bounds = model.first_query;
    if (bounds.empty()) bounds.push_back(0);
    bounds.push_back(layer.queries.size(1));
    for (int h = 0; h < 2; ++h) {
      for (size_t question = 0; question + 1 < bounds.size(); ++question) {
        for (int64_t begin = bounds[question]; begin < bounds[question + 1]; begin += block_size) {
          const int64_t end = std::min(bounds[question + 1], begin + block_size);
          body(l, h, layer.heads[static_cast<size_t>(h)], block_queries(layer, h, begin, end), end - begin);
        }
      }
    }
  }
}

// Keys kept by every block at a calibrated target, in that order.
inline std::vector<int64_t> kept_keys(const MadeModel& model, const Calibration& calibration, double target,
                                      int64_t block_size) {
  std::vector<int64_t> kept;
  const SelectionRule rule{.rule = Rule::threshold,
                           .thresholds = calibration.thresholds(target, block_size),
                           .group = {calibration.gqa, model.group_size()}};
  for_each_block(model, block_size, [&](int, int, const HeadView& head, const Tensor& queries, int64_t) {
    kept.push_back(select_clusters(head, queries, MadeModel::kScale, rule).n_keys);
  });
  return kept;
}

inline double measured_sparsity(const MadeModel& model, const Calibration& calibration, double target,
                                int64_t block_size) {
  const auto kept = kept_keys(model, calibration, target, block_size);
  double sum = 0;
  for (const int64_t n : kept) sum += static_cast<double>(n);
  return 1 - sum / (800.0 * static_cast<double>(kept.size()));
}

}  // namespace squeeze
