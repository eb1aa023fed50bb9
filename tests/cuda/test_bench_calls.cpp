// Lookups and attention together, as the benchmark calls them, on small contexts.
#include "tests/cuda/bench/decode_call.hpp"
#include "tests/cuda/bench/made_model.hpp"
#include "tests/cuda/bench/prefill_call.hpp"
#include "tests/cuda/cases.hpp"

namespace squeeze::cuda_tests {
namespace {

using cuda_bench::DecodeCall;
using cuda_bench::MadeIndex;
using cuda_bench::Mode;

struct Setting {
  Mode mode = Mode::dense;
  double share = 1;
  bool coarse = false;
  bool bytes = false;
};

void check_setting(const Setting& setting) {
  const cuda_bench::Shape shape{8, 2, 1500, setting.bytes};
  const MadeIndex index(shape, setting.coarse);
  const DecodeCall call(index, setting.mode, setting.share);
  call.run_layer(0, nullptr);
  call.run_layer(1, nullptr);  // the buffers are fit for the next layer
  cuda::synchronize(nullptr);
  const double error = call.largest_error(1);
  expect(error < 1e-4, "output is off by " + std::to_string(error));
  const auto read = static_cast<double>(call.bytes().total());
  const auto all = static_cast<double>(shape.kv_bytes());
  const double pinned = double(cuda_bench::kSinks + cuda_bench::kWindow) / double(shape.n_tokens);
  if (setting.mode == Mode::dense) expect(read == all, "dense reads everything");
  // Centroids cost a hundredth; a cluster that no longer fits is left out.
  if (setting.mode == Mode::sparse) {
    expect(read / all < setting.share + pinned + 0.015 && read / all > setting.share * 0.9, "share of the keys read");
  }
  if (setting.mode == Mode::sketches) expect(read / all < setting.share + 0.01, "share of the bytes read");
}

void check_prefill(double share, bool bytes = false) {
  const MadeIndex index({8, 2, 700, bytes}, false);
  const cuda_bench::PrefillCall call(index, 70, share);
  call.run_layer(0, nullptr);
  cuda::synchronize(nullptr);
  const double error = call.largest_error(0);
  expect(error < 1e-2, "output is off by " + std::to_string(error));  // softmax weights are rounded to bf16
}

constexpr cuda_bench::ModelShape kModel{
    .n_layers = 2, .hidden = 128, .intermediate = 192, .vocab = 300, .n_query_heads = 8, .n_kv_heads = 2};

struct Step {
  std::vector<float> logits;
  std::vector<int32_t> tokens;
};

// Checks what every step fulfils.
Step run_step(const cuda_bench::MadeModel& model, const MadeIndex& index, const Setting& setting, int n_requests) {
  const cuda_bench::ModelStep step(model, index, setting.mode, setting.share, n_requests);
  const auto run = [&] {
    step.run(nullptr);
    cuda::synchronize(nullptr);
    return Step{step.logits(), step.next_tokens()};
  };
  const Step first = run();
  for (const float x : first.logits) expect(std::isfinite(x), "a logit is not finite");
  for (const int32_t token : first.tokens) expect(token >= 0 && token < kModel.vocab, "a token of the vocabulary");
  step.linear_only(nullptr);  // parts alone leave nothing that the next step would read
  step.lookup_only(nullptr);
  step.attention_only(nullptr);
  const Step second = run();
  expect(second.logits == first.logits && second.tokens == first.tokens, "the same step gives other bits");
  return first;
}

void check_model(bool bytes) {
  const cuda_bench::MadeModel model(kModel);
  const MadeIndex index({kModel.n_query_heads, kModel.n_kv_heads, 500, bytes}, false);
  const Step dense = run_step(model, index, {}, 1);
  const Step full = run_step(model, index, {.mode = Mode::sparse, .share = 1}, 1);
  expect(full.logits == dense.logits, "all keys by lookup are dense attention");
  run_step(model, index, {.mode = Mode::sketches, .share = 0.5}, 1);
  // Works are split in another way: roundings to bf16 differ here and there.
  const Step batch = run_step(model, index, {}, 2);
  const std::span<const float> own(batch.logits.data(), dense.logits.size());
  expect_close("a request among two", own, std::vector<double>(dense.logits.begin(), dense.logits.end()), 0.05);
}

}  // namespace

std::vector<Case> bench_call_cases() {
  return {
      {"decode_call: dense", [] { check_setting({}); }},
      {"decode_call: a fifth of the keys", [] { check_setting({.mode = Mode::sparse, .share = 0.2}); }},
      {"decode_call: a fifth of the keys, two levels",
       [] { check_setting({.mode = Mode::sparse, .share = 0.2, .coarse = true}); }},
      {"decode_call: sketches", [] { check_setting({.mode = Mode::sketches, .share = 0.3}); }},
      {"model_step: a token twice, dense as of all keys, two requests", [] { check_model(false); }},
      {"model_step: the same over int8", [] { check_model(true); }},
      {"decode_call: int8, dense", [] { check_setting({.bytes = true}); }},
      {"decode_call: int8, sketches", [] { check_setting({.mode = Mode::sketches, .share = 0.3, .bytes = true}); }},
      {"prefill_call: int8, a fifth of the keys", [] { check_prefill(0.2, true); }},
      {"prefill_call: dense", [] { check_prefill(1); }},
      {"prefill_call: a fifth of the keys", [] { check_prefill(0.2); }},
  };
}

}  // namespace squeeze::cuda_tests
