// Replays a dump's queries through an index, layer by layer.
#include "tools/replay_report.hpp"

#include <algorithm>
#include <chrono>

#include "lib/core/error.hpp"

namespace squeeze {
namespace {

using Clock = std::chrono::steady_clock;

// The queries at positions from `first_position` on: [n_query_heads, n, head_dim].
struct WindowQueries {
  Tensor queries;
  std::vector<int32_t> positions;
};

WindowQueries window_queries(const ReplaySource& source, int layer) {
  const KvLayerView kv = source.dump.layer(layer);
  const std::span<const int32_t> all = source.dump.query_positions();
  const int64_t first = source.index.context().n_tokens() - source.index.options().n_window;
  const auto begin = std::lower_bound(all.begin(), all.end(), first) - all.begin();
  if (begin == std::ssize(all)) {
    fail("{}: no recorded query lies in the index's window of {} tokens; dump with a larger --window",
         source.dump.path(), source.index.options().n_window);
  }
  return {slice_dim1(kv.queries, begin, std::ssize(all)), {all.begin() + begin, all.end()}};
}

template <class Visit>  // called with the recorded queries of each source (the window, or every probe) of one layer
void for_each_recorded(const ReplaySource& source, int layer, Visit visit) {
  if (!source.probes) {
    const WindowQueries window = window_queries(source, layer);
    visit(RecordedQueries{window.queries, window.positions, {}, {}});
    return;
  }
  if (source.dump.n_probes() == 0) fail("{}: holds no probe questions; dump with --probes", source.dump.path());
  const auto n_tokens = static_cast<int32_t>(source.index.context().n_tokens());
  const int64_t n_probes = source.n_probes > 0 ? source.n_probes : source.dump.n_probes();
  for (int probe = 0; probe < n_probes; ++probe) {
    const KvLayerView kv = source.dump.probe_layer(probe, layer);
    std::vector<int32_t> positions(static_cast<size_t>(kv.queries.size(1)));
    for (size_t i = 0; i < positions.size(); ++i) positions[i] = n_tokens + static_cast<int32_t>(i);
    visit(RecordedQueries{kv.queries, positions, kv.keys, kv.values});
  }
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + std::ssize(values) / 2, values.end());
  return values[values.size() / 2];
}

// One decode step over the context: a new token's queries at every layer.
double step_ms(ContextAttention& attention, const std::vector<AttentionInput>& layers) {
  attention.clear_tail();
  const auto start = Clock::now();
  for (const AttentionInput& input : layers) (void)attention.attend(input);
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

}  // namespace

void check_same_context(const KvIndex& index, const KvDump& dump) {
  if (index.context().model.model_fingerprint != dump.context().model.model_fingerprint) {
    fail("{}: comes from another model than {} (fingerprints {} and {})", dump.path(), index.path(),
         dump.context().model.model_fingerprint, index.context().model.model_fingerprint);
  }
  if (index.context().tokens != dump.context().tokens) {
    fail("{}: holds another text than {} ({} and {} tokens); use the dump that the index was built from", dump.path(),
         index.path(), dump.context().n_tokens(), index.context().n_tokens());
  }
}

std::vector<std::vector<HeadMetrics>> replay_heads(const ReplaySource& source, const Policy& policy, Rest rest) {
  const ContextView view = source.index.view();
  std::vector<std::vector<HeadMetrics>> layers(view.layers.size());
  for (int layer = 0; layer < view.model.n_layers; ++layer) {
    std::vector<HeadMetrics>& heads = layers[static_cast<size_t>(layer)];
    heads.resize(static_cast<size_t>(view.model.n_kv_heads));
    for_each_recorded(source, layer, [&](const RecordedQueries& recorded) {
      const std::vector<HeadMetrics> measured = replay_layer(layer, view.layers[static_cast<size_t>(layer)], recorded,
                                                             policy, rest, view.model.softmax_scale, source.block_size);
      for (size_t h = 0; h < heads.size(); ++h) heads[h].add(measured[h]);
    });
  }
  return layers;
}

HeadMetrics pooled(const std::vector<HeadMetrics>& heads) {
  HeadMetrics total;
  for (const HeadMetrics& head : heads) total.add(head);
  return total;
}

HeadMetrics pooled(const std::vector<std::vector<HeadMetrics>>& layers) {
  HeadMetrics total;
  for (const auto& heads : layers) total.add(pooled(heads));
  return total;
}

// The new token's own key and value are zero: they cost the same whatever they hold.
ReplayTimes time_replay(const ReplaySource& source, const Policy& policy, Rest rest) {
  const ContextView view = source.index.view();
  const ModelInfo& m = view.model;
  const Tensor new_row = Tensor::zeros(DType::f32, {1, m.n_kv_heads, m.head_dim});
  ContextAttention sparse(view, policy, rest), dense(view, dense_policy(), Rest::drop);
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
      rows.push_back(slice_dim1(queries[static_cast<size_t>(layer)], step, step + 1));
      const TensorView q(rows.back().data(), DType::f32, {1, m.n_query_heads, m.head_dim});
      inputs.push_back({layer, source.index.context().n_tokens(), q, new_row, new_row});
    }
    dense_ms.push_back(step_ms(dense, inputs));
    sparse_ms.push_back(step_ms(sparse, inputs));
    usage.add(sparse.usage());
  }
  const auto n = static_cast<double>(n_steps);
  return {median(sparse_ms), median(dense_ms), double(usage.bytes_read) / n, double(usage.bytes_dense) / n};
}

}  // namespace squeeze
