// Lookups and attention together, as the benchmark calls them, on small contexts.
#include "tests/cuda/bench/made_index.hpp"
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
};

void check_setting(const Setting& setting) {
  const cuda_bench::Shape shape{8, 2, 1500};
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

void check_prefill(double share) {
  const MadeIndex index({8, 2, 700}, false);
  const cuda_bench::PrefillCall call(index, 70, share);
  call.run_layer(0, nullptr);
  cuda::synchronize(nullptr);
  const double error = call.largest_error(0);
  expect(error < 1e-2, "output is off by " + std::to_string(error));  // softmax weights are rounded to bf16
}

}  // namespace

std::vector<Case> bench_call_cases() {
  return {
      {"decode_call: dense", [] { check_setting({}); }},
      {"decode_call: a fifth of the keys", [] { check_setting({.mode = Mode::sparse, .share = 0.2}); }},
      {"decode_call: a fifth of the keys, two levels",
       [] { check_setting({.mode = Mode::sparse, .share = 0.2, .coarse = true}); }},
      {"decode_call: sketches", [] { check_setting({.mode = Mode::sketches, .share = 0.3}); }},
      {"prefill_call: dense", [] { check_prefill(1); }},
      {"prefill_call: a fifth of the keys", [] { check_prefill(0.2); }},
  };
}

}  // namespace squeeze::cuda_tests
