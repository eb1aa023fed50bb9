// Runs recorded queries through sparse and dense attention, block by block, and compares.
#include "lib/eval/replay.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "lib/attention/lookup_scratch.hpp"
#include "lib/core/elapsed.hpp"
#include "lib/core/parallel.hpp"
#include "lib/eval/metrics.hpp"

namespace squeeze {
namespace {

constexpr int64_t kLogitRows = 8;  // query rows whose logits are held at once

Tensor attend(const QueryBlock& block, const Selection& selection, Rest rest, float softmax_scale) {
  AttendWork work = context_work(*block.head, selection, rest, block.queries, softmax_scale, block.visible_tokens);
  work.parts.insert(work.parts.end(), block.tail.begin(), block.tail.end());
  AttentionState state(block.queries.size(0), block.queries.size(1));
  attend_parts({&work, 1}, softmax_scale, {&state, 1});
  return state.output();
}

// What one rule selected for a block, and the clustered part of it as ranges of logits.
struct Selected {
  Selection selection;
  std::vector<RowRange> ranges;
};

// Mean kept mass and recall over the block's rows, per selection. The logits are computed once for all.
void measure_keys(const QueryBlock& block, const std::vector<Selected>& selected, float softmax_scale,
                  std::vector<HeadMetrics>& metrics) {
  const HeadView& head = *block.head;
  const int64_t n_clustered = head.n_clustered();
  const int64_t n_rows = block.queries.size(0);
  std::vector<float> logits(static_cast<size_t>(kLogitRows * n_clustered));
  for (int64_t row = 0; row < n_rows; row += kLogitRows) {
    const int64_t n = std::min(kLogitRows, n_rows - row);
    head.key_rows().scores(block.queries.view().slice(row, row + n), head.n_sinks, head.n_sinks + n_clustered,
                           softmax_scale, logits.data(), n_clustered);
    for (int64_t i = 0; i < n; ++i) {
      const std::span<const float> own(logits.data() + i * n_clustered, static_cast<size_t>(n_clustered));
      for (size_t r = 0; r < selected.size(); ++r) {
        metrics[r].kept_mass += kept_mass(own, selected[r].ranges);
        metrics[r].topk_recall += topk_recall(own, selected[r].ranges, selected[r].selection.n_keys);
      }
    }
  }
  for (HeadMetrics& m : metrics) {
    m.kept_mass /= static_cast<double>(n_rows);
    m.topk_recall /= static_cast<double>(n_rows);
  }
}

void measure_output(TensorView sparse, TensorView dense, HeadMetrics& metrics) {
  for (int64_t i = 0; i < dense.n_elements(); ++i) {
    const double truth = dense.f32()[i];
    const double error = double{sparse.f32()[i]} - truth;
    metrics.error_squares += error * error;
    metrics.dense_squares += truth * truth;
  }
}

double relative_error(double error_squares, double dense_squares) {
  if (error_squares == 0) return 0;
  return std::sqrt(error_squares / dense_squares);
}

Selected select(int layer, const QueryBlock& block, const ReplayRule& rule, HeadMetrics& metrics) {
  const HeadView& head = *block.head;
  const auto start = std::chrono::steady_clock::now();
  LookupScratch scratch;
  Selected selected{rule.policy(layer, block.kv_head, head, block.queries, block.n_tokens, scratch), {}};
  metrics.usage = usage_of(head, selected.selection, rule.rest);
  metrics.usage.lookup_ms = ms_since(start);
  selected.ranges = selected.selection.ranges;
  for (RowRange& range : selected.ranges) range = {range.begin - head.n_sinks, range.end - head.n_sinks};
  return selected;
}

// Per rule. The dense output is computed once for all.
std::vector<HeadMetrics> replay_block(int layer, const QueryBlock& block, std::span<const ReplayRule> rules,
                                      float softmax_scale) {
  const auto dense_start = std::chrono::steady_clock::now();
  const Tensor dense = attend(block, everything(*block.head), Rest::drop, softmax_scale);
  const double dense_ms = ms_since(dense_start);
  std::vector<HeadMetrics> metrics(rules.size());
  std::vector<Selected> selected;
  for (size_t r = 0; r < rules.size(); ++r) {
    selected.push_back(select(layer, block, rules[r], metrics[r]));
    const auto sparse_start = std::chrono::steady_clock::now();
    const Tensor sparse = attend(block, selected[r].selection, rules[r].rest, softmax_scale);
    metrics[r].usage.attention_ms = ms_since(sparse_start);
    metrics[r].dense_ms = dense_ms;
    metrics[r].n_rows = block.queries.size(0);
    measure_output(sparse, dense, metrics[r]);
    metrics[r].output_error = relative_error(metrics[r].error_squares, metrics[r].dense_squares);
  }
  measure_keys(block, selected, softmax_scale, metrics);
  return metrics;
}

}  // namespace

void HeadMetrics::add(const HeadMetrics& other) {
  usage.add(other.usage);
  dense_ms += other.dense_ms;
  error_squares += other.error_squares;
  dense_squares += other.dense_squares;
  output_error = relative_error(error_squares, dense_squares);
  const auto total = static_cast<double>(n_rows + other.n_rows);
  if (total == 0) return;
  const double share = static_cast<double>(other.n_rows) / total;
  kept_mass += (other.kept_mass - kept_mass) * share;
  topk_recall += (other.topk_recall - topk_recall) * share;
  n_rows += other.n_rows;
}

std::vector<std::vector<HeadMetrics>> replay_layer(int layer, const std::vector<HeadView>& heads,
                                                   const RecordedQueries& recorded, std::span<const ReplayRule> rules,
                                                   float softmax_scale, int64_t block_size) {
  const QueryBlocks blocks(heads, recorded, block_size);
  std::vector<std::vector<HeadMetrics>> measured(static_cast<size_t>(blocks.size()));
  parallel_for(blocks.size(), [&](int64_t i) {
    measured[static_cast<size_t>(i)] = replay_block(layer, blocks.at(i), rules, softmax_scale);
  });
  std::vector<std::vector<HeadMetrics>> metrics(rules.size(), std::vector<HeadMetrics>(heads.size()));
  for (int64_t i = 0; i < blocks.size(); ++i) {
    for (size_t r = 0; r < rules.size(); ++r) {
      metrics[r][static_cast<size_t>(blocks.kv_head(i))].add(measured[static_cast<size_t>(i)][r]);
    }
  }
  return metrics;
}

std::vector<HeadMetrics> replay_layer(int layer, const std::vector<HeadView>& heads, const RecordedQueries& recorded,
                                      const Policy& policy, Rest rest, float softmax_scale, int64_t block_size) {
  const ReplayRule rule{policy, rest};
  return replay_layer(layer, heads, recorded, {&rule, 1}, softmax_scale, block_size)[0];
}

}  // namespace squeeze
