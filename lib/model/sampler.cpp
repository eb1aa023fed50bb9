// Sampling with a generator of our own, so that a seed gives the same tokens on every machine.
#include "lib/model/sampler.hpp"

#include <algorithm>
#include <cmath>

#include "lib/core/error.hpp"

namespace squeeze {
namespace {

// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014); uniform in [0, 1).
double next_uniform(uint64_t& state) {
  state += 0x9e3779b97f4a7c15u;
  uint64_t z = state;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  z ^= z >> 31;
  return static_cast<double>(z >> 11) * 0x1p-53;
}

}  // namespace

void check_logits(std::span<const float> logits) {
  bool has_finite = false;
  for (const float logit : logits) {
    if (std::isnan(logit) || logit == INFINITY) {
      fail("the model's logits are not finite (found {}); its weights or its cache are damaged", logit);
    }
    has_finite |= logit != -INFINITY;
  }
  if (!has_finite) fail("the model's logits leave no token to choose from");
}

int32_t greedy_token(std::span<const float> logits) {
  check_logits(logits);
  const auto best = std::max_element(logits.begin(), logits.end());
  return static_cast<int32_t>(best - logits.begin());
}

Sampler::Sampler(const SamplingOptions& options) : options_(options), state_(options.seed) {
  if (!(options.temperature >= 0) || !std::isfinite(options.temperature)) {
    fail("the temperature must be 0 (greedy) or a positive number, found {}", options.temperature);
  }
  if (options.top_k < 0) fail("top-k must be 0 (all tokens) or positive, found {}", options.top_k);
  if (!(options.top_p > 0 && options.top_p <= 1)) fail("top-p must be in (0, 1], found {}", options.top_p);
}

int32_t Sampler::next(std::span<const float> logits) {
  if (greedy()) return greedy_token(logits);
  check_logits(logits);
  candidates_.clear();
  for (size_t id = 0; id < logits.size(); ++id) candidates_.emplace_back(logits[id], static_cast<int32_t>(id));
  const bool keeps_all = options_.top_k == 0 || static_cast<size_t>(options_.top_k) >= candidates_.size();
  const size_t n_kept = keeps_all ? candidates_.size() : static_cast<size_t>(options_.top_k);
  const auto before = [](const auto& a, const auto& b) {
    return a.first != b.first ? a.first > b.first : a.second < b.second;
  };
  std::partial_sort(candidates_.begin(), candidates_.begin() + static_cast<ptrdiff_t>(n_kept), candidates_.end(),
                    before);
  candidates_.resize(n_kept);

  const double max = candidates_.front().first;
  const auto weight = [&](const auto& candidate) {
    return std::exp((double{candidate.first} - max) / double{options_.temperature});
  };
  double total = 0;
  for (const auto& candidate : candidates_) total += weight(candidate);
  double nucleus = 0;
  size_t n_nucleus = 0;
  while (n_nucleus < n_kept && (n_nucleus == 0 || nucleus < double{options_.top_p} * total)) {
    nucleus += weight(candidates_[n_nucleus++]);
  }
  double left = next_uniform(state_) * nucleus;
  for (size_t i = 0; i + 1 < n_nucleus; ++i) {
    left -= weight(candidates_[i]);
    if (left < 0) return candidates_[i].second;
  }
  return candidates_[n_nucleus - 1].second;
}

}  // namespace squeeze
