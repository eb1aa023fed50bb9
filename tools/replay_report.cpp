// Replays a dump's queries through an index, layer by layer.
#include "tools/replay_report.hpp"

#include <algorithm>
#include <chrono>

namespace squeeze {
namespace {

using Clock = std::chrono::steady_clock;

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + std::ssize(values) / 2, values.end());
  return values[values.size() / 2];
}

// One decode step over the context: a new token's queries at every layer.
double step_ms(Operations& operations, TailAttention& attention, const std::vector<AttentionInput>& layers) {
  attention.clear_tail();
  const auto start = Clock::now();
  TensorView output;
  for (const AttentionInput& input : layers) output = attention.attend(input);
  (void)operations.download(output);  // waits for a device
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

}  // namespace

std::vector<LayerMetrics> replay_rules(const ReplaySource& source, std::span<const ReplayRule> rules) {
  const ContextView view = source.index.view();
  const std::vector<HeadMetrics> empty(static_cast<size_t>(view.model.n_kv_heads));
  std::vector<LayerMetrics> all(rules.size(), LayerMetrics(view.layers.size(), empty));
  for (int layer = 0; layer < view.model.n_layers; ++layer) {
    const std::vector<HeadView>& heads = view.layers[static_cast<size_t>(layer)];
    for (const LayerQueries& recorded : replay_queries(source, layer)) {
      const auto measured =
          replay_layer(layer, heads, recorded.view(), rules, view.model.softmax_scale, source.block_size);
      for (size_t r = 0; r < rules.size(); ++r) {
        for (size_t h = 0; h < heads.size(); ++h) all[r][static_cast<size_t>(layer)][h].add(measured[r][h]);
      }
    }
  }
  return all;
}

LayerMetrics replay_heads(const ReplaySource& source, const Policy& policy, Rest rest) {
  const ReplayRule rule{policy, rest};
  return replay_rules(source, {&rule, 1})[0];
}

HeadMetrics pooled(const std::vector<HeadMetrics>& heads) {
  HeadMetrics total;
  for (const HeadMetrics& head : heads) total.add(head);
  return total;
}

HeadMetrics pooled(const LayerMetrics& layers) {
  HeadMetrics total;
  for (const auto& heads : layers) total.add(pooled(heads));
  return total;
}

// The new token's own key and value are zero: they cost the same whatever they hold.
ReplayTimes time_replay(const ReplaySource& source, Operations& operations, const AttentionMaker& maker) {
  const ContextView view = source.index.view();
  const ModelInfo& m = view.model;
  const Tensor new_row = operations.upload(Tensor::zeros(DType::f32, {1, m.n_kv_heads, m.head_dim}));
  const ChosenAttention attention = maker(operations, view, 1);
  std::vector<Tensor> queries;  // per layer, [n_query_heads, n_queries, head_dim]
  for (int layer = 0; layer < m.n_layers; ++layer) {
    queries.push_back(convert(window_queries(source, layer).queries, DType::f32));
  }
  const int64_t n_steps = std::min<int64_t>(queries[0].size(1), 20);
  std::vector<double> sparse_ms, dense_ms;
  Usage usage;
  for (int64_t step = 0; step < n_steps; ++step) {
    std::vector<Tensor> rows;
    std::vector<AttentionInput> inputs;
    for (int layer = 0; layer < m.n_layers; ++layer) {
      rows.push_back(operations.upload(slice_dim1(queries[static_cast<size_t>(layer)], step, step + 1)));
      const TensorView q(rows.back().data(), DType::f32, {1, m.n_query_heads, m.head_dim});
      inputs.push_back({layer, source.index.context().n_tokens(), q, new_row, new_row});
    }
    dense_ms.push_back(step_ms(operations, *attention.dense, inputs));
    sparse_ms.push_back(step_ms(operations, *attention.chosen[0], inputs));
    usage.add(attention.chosen[0]->usage());
  }
  const auto n = static_cast<double>(n_steps);
  return {median(sparse_ms), median(dense_ms), double(usage.bytes_read) / n, double(usage.bytes_dense) / n};
}

}  // namespace squeeze
