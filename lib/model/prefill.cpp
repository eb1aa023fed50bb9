// Layer-major prefill of a fixed text and of the probes that follow it.
#include "lib/model/prefill.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "lib/core/error.hpp"

namespace squeeze {
namespace {

struct Extent {
  int64_t n_tokens;
  int64_t n_queries;  // the last ones, recorded
};

// The types of keys and values that attention reads, and of what is recorded.
struct Types {
  DType working, recorded;
};

// The attention of one layer during the prefill: the context's rows, or a probe's rows behind the whole context.
class LayerAttention final : public Attention {
 public:
  LayerAttention(const ModelConfig& config, Operations& ops, Extent context, Types types)
      : config_(config),
        ops_(ops),
        n_tokens_(context.n_tokens),
        types_(types),
        context_(allocate(context)),
        output_(ops.memory()) {}

  void start_probe(int64_t n_tokens) { probes_.push_back(allocate({n_tokens, n_tokens})); }

  TensorView attend(const AttentionInput& input) override {
    const bool in_context = input.first_position < n_tokens_;
    KvLayer& sequence = in_context ? context_ : probes_.back();
    const int64_t first_row = input.first_position - (in_context ? 0 : n_tokens_);
    ops_.store_rows(input.keys, first_row, sequence.keys);
    ops_.store_rows(input.values, first_row, sequence.values);
    record_queries(input.queries, first_row, sequence);
    const int64_t n_rows = first_row + input.queries.size(0);
    const CachePart own{sequence.keys, sequence.values, n_rows};
    const std::array<CachePart, 2> parts{CachePart{context_.keys, context_.values, n_tokens_}, own};
    ops_.causal_attention(input.queries, in_context ? std::span(&own, 1) : std::span<const CachePart>(parts),
                          config_.softmax_scale(), output_);
    return output_;
  }

  // The recorded layer; this is empty afterwards.
  PrefilledLayer finish(int layer) {
    PrefilledLayer done{.layer = layer, .context = finish(std::move(context_)), .probes = {}, .hidden = {}};
    for (KvLayer& probe : probes_) done.probes.push_back(finish(std::move(probe)));
    return done;
  }

 private:
  // One sequence: its keys and values in the type that attention reads, its queries as recorded.
  KvLayer allocate(Extent extent) const {
    const Shape rows{config_.n_kv_heads, extent.n_tokens, config_.head_dim};
    return {
        .keys = Tensor(types_.working, rows, ops_.memory()),
        .values = Tensor(types_.working, rows, ops_.memory()),
        .queries = Tensor(types_.recorded, {config_.n_query_heads, extent.n_queries, config_.head_dim}, ops_.memory())};
  }

  void record_queries(TensorView queries, int64_t first_row, KvLayer& sequence) {
    const int64_t first_recorded = sequence.keys.size(1) - sequence.queries.size(1);
    const int64_t skipped = std::clamp<int64_t>(first_recorded - first_row, 0, queries.size(0));
    if (skipped == queries.size(0)) return;
    ops_.store_rows(queries.slice(skipped, queries.size(0)), first_row + skipped - first_recorded, sequence.queries);
  }

  KvLayer finish(KvLayer sequence) const {
    return {.keys = recorded(std::move(sequence.keys)),
            .values = recorded(std::move(sequence.values)),
            .queries = recorded(std::move(sequence.queries))};
  }
  // On the host, in the recorded type.
  Tensor recorded(Tensor rows) const {
    const TensorView host = ops_.download(rows);
    if (host.data() == rows.data() && rows.dtype() == types_.recorded) return rows;
    return convert(host, types_.recorded);
  }

  const ModelConfig& config_;
  Operations& ops_;
  int64_t n_tokens_;
  Types types_;
  KvLayer context_;
  std::vector<KvLayer> probes_;
  Tensor output_;
};

using Probes = std::vector<std::vector<int32_t>>;

struct Lengths {
  int64_t context = 0, probes = 0, longest_probe = 0;
  int64_t all() const { return context + probes; }
};

Lengths measure(std::span<const int32_t> tokens, const Probes& probes) {
  Lengths lengths{.context = static_cast<int64_t>(tokens.size())};
  for (const auto& probe : probes) {
    if (probe.empty()) fail("a probe has no tokens");
    const auto n = static_cast<int64_t>(probe.size());
    lengths.probes += n;
    lengths.longest_probe = std::max(lengths.longest_probe, n);
  }
  return lengths;
}

void check(const Transformer& transformer, const Lengths& lengths, const PrefillOptions& options) {
  if (lengths.context == 0) fail("the fixed text has no tokens");
  if (options.chunk < 1) fail("the chunk must be at least 1 token, found {}", options.chunk);
  if (options.n_queries < 0) fail("the number of recorded queries must not be negative, found {}", options.n_queries);
  const int n_layers = transformer.config().n_layers;
  if (options.first_layer < 0 || options.first_layer > n_layers) {
    fail("cannot resume at layer {} of a model with {} layers", options.first_layer, n_layers);
  }
  const Shape expected{lengths.all(), transformer.config().hidden_size};
  if (options.first_layer > 0 && (options.hidden.dtype() != DType::f32 || options.hidden.shape() != expected)) {
    fail("the hidden states to resume from must be f32 {}, found {} {}", expected.str(),
         name_of(options.hidden.dtype()), options.hidden.shape().str());
  }
  transformer.check_length(lengths.context + lengths.longest_probe);
}

// [n_tokens of the context and of all probes, hidden]
Tensor embed_all(const Transformer& transformer, std::span<const int32_t> tokens, const Probes& probes) {
  std::vector<int32_t> all(tokens.begin(), tokens.end());
  for (const auto& probe : probes) all.insert(all.end(), probe.begin(), probe.end());
  return transformer.embed(all);
}

}  // namespace

void prefill(Transformer& transformer, std::span<const int32_t> tokens, const Probes& probes, PrefillOptions options,
             const std::function<void(const PrefilledLayer&)>& sink, const Progress& progress) {
  const Lengths lengths = measure(tokens, probes);
  check(transformer, lengths, options);
  transformer.set_sequence_length(lengths.context);
  const int n_layers = transformer.config().n_layers;
  const Extent context{lengths.context, std::min(options.n_queries, lengths.context)};
  Operations& ops = transformer.operations();
  const Types types{transformer.precision() == Precision::f32 ? DType::f32 : options.dtype, options.dtype};
  Tensor hidden =
      options.first_layer > 0 ? ops.upload(std::move(options.hidden)) : embed_all(transformer, tokens, probes);

  for (int layer = options.first_layer; layer < n_layers; ++layer) {
    LayerAttention attention(transformer.config(), ops, context, types);
    int64_t row = 0;
    const auto run = [&](int64_t first_position, int64_t n_tokens) {
      for (int64_t done = 0; done < n_tokens; done += options.chunk) {
        const int64_t n = std::min(options.chunk, n_tokens - done);
        float* chunk = hidden.f32() + row * hidden.size(1);
        transformer.forward_layer(layer, first_position + done, attention, chunk, n);
        row += n;
        if (progress) {
          progress(
              {fmt::format("layer {}/{}", layer + 1, n_layers), layer * lengths.all() + row, n_layers * lengths.all()});
        }
      }
    };
    run(0, lengths.context);
    for (const auto& probe : probes) {
      attention.start_probe(static_cast<int64_t>(probe.size()));
      run(lengths.context, static_cast<int64_t>(probe.size()));
    }
    PrefilledLayer done = attention.finish(layer);
    done.hidden = ops.download(hidden);
    sink(done);
  }
}

}  // namespace squeeze
