// A model of Llama 3 8B's shape decodes a token (of each request) behind 128K tokens: one graph, replayed.
#include "tests/cuda/bench/model_rows.hpp"

#include <cmath>

#include "tests/cuda/bench/made_model.hpp"

namespace squeeze::cuda_bench {
namespace {

constexpr ModelShape kShape{
    .n_layers = 32, .hidden = 4096, .intermediate = 14336, .vocab = 128256, .n_query_heads = 32, .n_kv_heads = 8};
constexpr int64_t kTokens = int64_t{1} << 17;
constexpr int kRequests[] = {1, 16};
constexpr int64_t kContextBytes = int64_t{6} << 30;  // at most, of the index and what is computed in

struct Setting {
  const char* name;
  Mode mode;
  double share;
};
constexpr Setting kSettings[] = {
    {"dense", Mode::dense, 1}, {"sparsity 90 %", Mode::sparse, 0.1}, {"budget 5 %", Mode::sketches, 0.05}};

Shape context(bool bytes) { return {kShape.n_query_heads, kShape.n_kv_heads, kTokens, bytes}; }

std::string row_name(bool bytes, int n_requests, const Setting& setting) {
  return std::string("model 8B 128K ") + (bytes ? "int8 " : "") + "batch " + std::to_string(n_requests) + " " +
         setting.name;
}

bool wants_any(const Bench& bench, bool bytes, int n_requests) {
  return std::ranges::any_of(kSettings, [&](const Setting& s) { return bench.wants(row_name(bytes, n_requests, s)); });
}

// Finite logits, and the tokens of the replay are those of the step that was not captured.
void check_step(Bench& bench, const ModelStep& step, const std::string& name) {
  const auto run = [&](Stream stream) { step.run(stream); };
  bench.run_once(run);
  const std::vector<int32_t> tokens = step.next_tokens();
  for (const float x : step.logits()) {
    if (!std::isfinite(x)) throw std::runtime_error(name + ": a logit is not finite");
  }
  bench.replay_ms(run, 1);
  if (step.next_tokens() != tokens) throw std::runtime_error(name + ": a replay gives another token");
}

// Returns the step's milliseconds. Shares: of parts timed alone, of the whole step's time.
double add_row(Bench& bench, const std::string& name, const ModelStep& step, int n_requests, double dense_ms) {
  check_step(bench, step, name);
  const int repeats = n_requests > 1 ? 7 : 25;
  const auto ms_of = [&](void (ModelStep::*part)(Stream) const) {
    return bench.replay_ms([&](Stream stream) { (step.*part)(stream); }, repeats);
  };
  const double ms = ms_of(&ModelStep::run);
  const double bytes = double(kShape.read_bytes()) + double(kShape.n_layers) * double(step.context_bytes());
  const double attention = ms_of(&ModelStep::attention_only), linear = ms_of(&ModelStep::linear_only);
  const double lookup = dense_ms > 0 ? ms_of(&ModelStep::lookup_only) : 0;
  char note[160];
  std::snprintf(note, sizeof note,
                "%.1f tokens/s, %.2f ms a step; alone: attention %.0f %%, lookup %.0f %%, linear layers %.0f %%",
                n_requests * 1e3 / ms, ms, 100 * attention / ms, 100 * lookup / ms, 100 * linear / ms);
  const double gbps = bytes / ms / 1e6;
  bench.add({name, 1e3 * ms, gbps, gbps / bench.copy_gbps(), dense_ms > 0 ? dense_ms / ms : 0, note});
  return ms;
}

// Over one context; ratios are to dense attention over it.
void add_rows(Bench& bench, const MadeModel& model, bool bytes) {
  const MadeIndex index(context(bytes), false);
  for (const int n_requests : kRequests) {
    if (!wants_any(bench, bytes, n_requests)) continue;
    double dense_ms = 0;
    for (const Setting& setting : kSettings) {
      const std::string name = row_name(bytes, n_requests, setting);
      if (setting.mode != Mode::dense && !bench.wants(name)) continue;
      const ModelStep step(model, index, setting.mode, setting.share, n_requests);
      const double ms = add_row(bench, name, step, n_requests, dense_ms);
      if (setting.mode == Mode::dense) dense_ms = ms;
    }
  }
}

}  // namespace

void add_model_rows(Bench& bench) {
  const auto wanted = [&](bool bytes) {
    return std::ranges::any_of(kRequests, [&](int n) { return wants_any(bench, bytes, n); });
  };
  if (kTokens > bench.options().max_tokens || !(wanted(false) || wanted(true))) return;
  const auto free = static_cast<int64_t>(cuda::free_device_bytes());
  if (free < kShape.bytes() + kContextBytes) {
    std::printf("model 8B 128K: skipped, needs %.1f GiB of device memory, %.1f are free\n",
                double(kShape.bytes() + kContextBytes) / (1 << 30), double(free) / (1 << 30));
    return;
  }
  const MadeModel model(kShape);
  for (const bool bytes : {false, true}) {
    if (wanted(bytes)) add_rows(bench, model, bytes);
  }
}

}  // namespace squeeze::cuda_bench
