// How a lookup grows with the context: rows scored, bytes, and what it finds of what was planted.
#pragma once

#include <algorithm>
#include <cmath>

#include "lib/attention/lookup.hpp"
#include "lib/attention/usage.hpp"
#include "lib/index/build.hpp"
#include "lib/index/sketch.hpp"
#include "tests/planted_keys.hpp"

namespace squeeze {

inline constexpr float kGrowthScale = 0.125f;

// A lookup that keeps about `n_keys` keys of a head, from the sketches of about `n_sketches`.
struct GrowthLookup {
  std::vector<double> upper_keep = {};  // per upper level
  int64_t n_sketches = 8192;
  int64_t n_keys = 1024;
};

// Means over the queries.
struct LookupFigures {
  double rows_scored = 0, bytes = 0, n_selected = 0;
  double recall = 0;     // share of the planted keys that were selected
  double kept_mass = 0;  // share of the attention on clustered keys that falls on selected ones
};

inline IndexOptions growth_options(double leaf_share, int64_t n_tokens, int64_t segment) {
  IndexOptions options;
  options.levels = levels_above({leaf_share, 0}, n_tokens);
  options.levels.push_back({leaf_share, 0});
  options.segment = segment;
  options.quantise_centroids = true;
  options.sketch_group = 4;
  return options;
}

// The head without its upper levels.
inline HeadView flat(HeadView head) {
  head.levels.erase(head.levels.begin(), head.levels.end() - 1);
  return head;
}

// Rule::bytes with the bytes that pay for just these sketches and keys after the centroids, which a lookup that can
// afford nothing counts.
inline Selection select_for(const HeadView& head, TensorView query, const GrowthLookup& lookup) {
  SelectionRule rule{.rule = Rule::bytes};
  for (const double keep : lookup.upper_keep) {
    rule.keep_keys.push_back(std::llround(std::ceil(keep * static_cast<double>(head.n_clustered()))));
  }
  const int64_t n_scored = select_clusters(head, query, kGrowthScale, rule).n_scored;
  const int64_t n_sketches = std::min(lookup.n_sketches, head.n_clustered() * 4 / 5);
  const auto sketches = static_cast<double>(n_sketches * head.sketches.key_bytes());
  const auto keys = static_cast<double>(lookup.n_keys * kv_bytes(head));
  const int64_t fixed =
      pinned_bytes(head) + n_scored * centroid_bytes(head.levels.back()) + head.sketches.codebook_bytes();
  rule.bytes = static_cast<double>(fixed) + sketches + keys;
  rule.sketch_share = sketches / (sketches + keys);
  return select_clusters(head, query, kGrowthScale, rule);
}

// The attention of a query on every row, before normalisation; [n_tokens].
inline std::vector<double> attention_weights(const HeadView& head, TensorView query) {
  std::vector<float> logits(static_cast<size_t>(head.n_tokens()));
  kernels().scores({.queries = query.f32(),
                    .n_queries = 1,
                    .rows = head.keys.data(),
                    .dtype = head.keys.dtype(),
                    .n_rows = head.n_tokens(),
                    .dim = head.keys.size(1),
                    .scale = kGrowthScale,
                    .out = logits.data(),
                    .out_stride = head.n_tokens()});
  const float max = *std::max_element(logits.begin(), logits.end());
  std::vector<double> weights;
  for (const float logit : logits) weights.push_back(std::exp(double{logit} - double{max}));
  return weights;
}

inline LookupFigures measure_query(const HeadView& head, TensorView query, const std::vector<int32_t>& planted,
                                   const GrowthLookup& lookup) {
  const Selection selection = select_for(head, query, lookup);
  const std::vector<double> weights = attention_weights(head, query);
  std::vector<char> selected(weights.size(), 0);  // by token
  double kept = 0, all = 0;
  for (const RowRange& range : selection.ranges) {
    for (auto row = static_cast<size_t>(range.begin); row < static_cast<size_t>(range.end); ++row) {
      selected[static_cast<size_t>(head.token_of_row[row])] = 1;
      kept += weights[row];
    }
  }
  for (int64_t row = head.n_sinks; row < head.n_tokens() - head.n_window; ++row)
    all += weights[static_cast<size_t>(row)];
  const auto found = std::count_if(planted.begin(), planted.end(),
                                   [&](int32_t token) { return selected[static_cast<size_t>(token)] != 0; });
  return {static_cast<double>(selection.n_scored),
          static_cast<double>(usage_of(head, selection, Rest::drop).bytes_read), static_cast<double>(selection.n_keys),
          static_cast<double>(found) / static_cast<double>(planted.size()), kept / all};
}

inline LookupFigures measure(const HeadView& head, const PlantedContext& context, const GrowthLookup& lookup) {
  LookupFigures mean;
  const int64_t n_queries = context.queries.size(0);
  for (int64_t q = 0; q < n_queries; ++q) {
    const LookupFigures one =
        measure_query(head, context.queries.view().slice(q, q + 1), context.planted[static_cast<size_t>(q)], lookup);
    for (double LookupFigures::*field : {&LookupFigures::rows_scored, &LookupFigures::bytes, &LookupFigures::n_selected,
                                         &LookupFigures::recall, &LookupFigures::kept_mass}) {
      mean.*field += one.*field / static_cast<double>(n_queries);
    }
  }
  return mean;
}

}  // namespace squeeze
