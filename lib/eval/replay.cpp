// Runs recorded queries through sparse and dense attention, block by block, and compares.
#include "lib/eval/replay.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "lib/core/elapsed.hpp"
#include "lib/core/error.hpp"
#include "lib/core/parallel.hpp"
#include "lib/eval/metrics.hpp"

namespace squeeze {
namespace {

constexpr int64_t kLogitRows = 8;  // query rows whose logits are held at once

// One selection: consecutive query tokens of one KV head.
struct Block {
  int kv_head;
  const HeadView* head;
  Tensor queries;  // f32 [n_tokens * group_size, head_dim]
  int64_t n_tokens;
  std::vector<int64_t> visible_tokens;  // per query row, in the context
  std::vector<AttendPart> tail;         // none or one
};

Block make_block(const HeadView& head, int kv_head, int64_t group_size, const RecordedQueries& recorded, int64_t begin,
                 int64_t end) {
  const int64_t head_dim = recorded.queries.size(2);
  Block block{kv_head, &head, Tensor(DType::f32, {(end - begin) * group_size, head_dim}), end - begin, {}, {}};
  const int64_t n_tail = recorded.tail_keys.data() ? recorded.tail_keys.size(1) : 0;
  if (n_tail > 0) {
    block.tail.push_back({recorded.tail_keys[kv_head], recorded.tail_values[kv_head], {}, {}});
    block.tail[0].ranges.push_back({0, static_cast<int32_t>(n_tail)});
  }
  float* out = block.queries.f32();
  for (int64_t t = begin; t < end; ++t) {
    const int64_t n_seen = int64_t{recorded.positions[static_cast<size_t>(t)]} + 1;
    for (int64_t g = 0; g < group_size; ++g, out += head_dim) {
      const TensorView query = recorded.queries[kv_head * group_size + g][t];
      kernels().to_f32(query.data(), query.dtype(), head_dim, out);
      block.visible_tokens.push_back(std::min(n_seen, head.n_tokens()));
      if (n_tail > 0) block.tail[0].visible.push_back(std::max<int64_t>(0, n_seen - head.n_tokens()));
    }
  }
  return block;
}

Tensor attend(const Block& block, const Selection& selection, Rest rest, float softmax_scale) {
  AttendWork work = context_work(*block.head, selection, rest, block.queries, softmax_scale, block.visible_tokens);
  work.parts.insert(work.parts.end(), block.tail.begin(), block.tail.end());
  AttentionState state(block.queries.size(0), block.queries.size(1));
  attend_parts({&work, 1}, softmax_scale, {&state, 1});
  return state.output();
}

// Kept mass and recall, summed over the block's rows.
void measure_keys(const Block& block, const Selection& selection, float softmax_scale, HeadMetrics& metrics) {
  const HeadView& head = *block.head;
  const int64_t n_clustered = head.n_clustered();
  const int64_t head_dim = block.queries.size(1);
  std::vector<RowRange> ranges = selection.ranges;
  for (RowRange& range : ranges) range = {range.begin - head.n_sinks, range.end - head.n_sinks};
  std::vector<float> logits(static_cast<size_t>(kLogitRows * n_clustered));
  for (int64_t row = 0; row < block.queries.size(0); row += kLogitRows) {
    const int64_t n = std::min(kLogitRows, block.queries.size(0) - row);
    kernels().scores({.queries = block.queries.f32() + row * head_dim,
                      .n_queries = n,
                      .rows = head.keys.at(head.n_sinks * head_dim),
                      .dtype = head.keys.dtype(),
                      .n_rows = n_clustered,
                      .dim = head_dim,
                      .scale = softmax_scale,
                      .out = logits.data(),
                      .out_stride = n_clustered});
    for (int64_t i = 0; i < n; ++i) {
      const std::span<const float> own(logits.data() + i * n_clustered, static_cast<size_t>(n_clustered));
      metrics.kept_mass += kept_mass(own, ranges);
      metrics.topk_recall += topk_recall(own, ranges, selection.n_keys);
    }
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

HeadMetrics replay_block(int layer, const Block& block, const Policy& policy, Rest rest, float softmax_scale) {
  const HeadView& head = *block.head;
  const auto lookup_start = std::chrono::steady_clock::now();
  const Selection selection = policy(layer, block.kv_head, head, block.queries, block.n_tokens);
  HeadMetrics metrics;
  metrics.usage = usage_of(head, selection, rest);
  metrics.usage.lookup_ms = ms_since(lookup_start);
  const auto sparse_start = std::chrono::steady_clock::now();
  const Tensor sparse = attend(block, selection, rest, softmax_scale);
  metrics.usage.attention_ms = ms_since(sparse_start);
  const auto dense_start = std::chrono::steady_clock::now();
  const Tensor dense = attend(block, everything(head), Rest::drop, softmax_scale);
  metrics.dense_ms = ms_since(dense_start);

  metrics.n_rows = block.queries.size(0);
  measure_keys(block, selection, softmax_scale, metrics);
  metrics.kept_mass /= static_cast<double>(metrics.n_rows);
  metrics.topk_recall /= static_cast<double>(metrics.n_rows);
  measure_output(sparse, dense, metrics);
  metrics.output_error = relative_error(metrics.error_squares, metrics.dense_squares);
  return metrics;
}

void check(const std::vector<HeadView>& heads, const RecordedQueries& recorded, int64_t block_size) {
  const auto n_heads = static_cast<int64_t>(heads.size());
  const TensorView queries = recorded.queries;
  if (block_size < 1) fail("replay: the block size must be at least 1, found {}", block_size);
  if (n_heads == 0 || queries.shape().rank() != 3 || queries.size(0) == 0 || queries.size(0) % n_heads != 0 ||
      queries.size(1) != static_cast<int64_t>(recorded.positions.size()) || queries.size(2) != heads[0].keys.size(1)) {
    fail("replay: queries {} at {} positions do not fit {} KV heads", queries.shape().str(), recorded.positions.size(),
         n_heads);
  }
  const TensorView tail = recorded.tail_keys;
  if (!tail.data()) return;
  if (tail.shape() != recorded.tail_values.shape() || tail.shape().rank() != 3 || tail.size(0) != n_heads) {
    fail("replay: tail keys {} and values {} do not fit {} KV heads", tail.shape().str(),
         recorded.tail_values.shape().str(), n_heads);
  }
  for (const int32_t position : recorded.positions) {
    if (position >= heads[0].n_tokens() + tail.size(1)) {
      fail("replay: a query at position {}, but only {} context and {} question tokens", position, heads[0].n_tokens(),
           tail.size(1));
    }
  }
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

std::vector<HeadMetrics> replay_layer(int layer, const std::vector<HeadView>& heads, const RecordedQueries& recorded,
                                      const Policy& policy, Rest rest, float softmax_scale, int64_t block_size) {
  check(heads, recorded, block_size);
  const auto n_heads = static_cast<int64_t>(heads.size());
  const int64_t group_size = recorded.queries.size(0) / n_heads;
  const int64_t n_queries = recorded.queries.size(1);
  const int64_t n_blocks = (n_queries + block_size - 1) / block_size;
  std::vector<HeadMetrics> blocks(static_cast<size_t>(n_heads * n_blocks));
  parallel_for(n_heads * n_blocks, [&](int64_t i) {
    const int64_t begin = i % n_blocks * block_size;
    const int64_t end = std::min(begin + block_size, n_queries);
    const auto kv_head = static_cast<int>(i / n_blocks);
    const HeadView& head = heads[static_cast<size_t>(kv_head)];
    const Block block = make_block(head, kv_head, group_size, recorded, begin, end);
    blocks[static_cast<size_t>(i)] = replay_block(layer, block, policy, rest, softmax_scale);
  });
  std::vector<HeadMetrics> metrics(heads.size());
  for (int64_t i = 0; i < n_heads * n_blocks; ++i) {
    metrics[static_cast<size_t>(i / n_blocks)].add(blocks[static_cast<size_t>(i)]);
  }
  return metrics;
}

}  // namespace squeeze
