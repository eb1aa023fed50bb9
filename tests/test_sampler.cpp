// Greedy and random sampling.
#include "lib/model/sampler.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <map>

#include "lib/core/error.hpp"

namespace squeeze {
namespace {

const std::vector<float> kLogits{0.0f, 2.0f, -1.0f, 2.0f, 1.0f};

std::map<int32_t, double> frequencies(const SamplingOptions& options, int n) {
  Sampler sampler(options);
  std::map<int32_t, double> counts;
  for (int i = 0; i < n; ++i) counts[sampler.next(kLogits)] += 1.0 / n;
  return counts;
}

std::vector<int32_t> draw(uint64_t seed, int n) {
  Sampler sampler({.temperature = 1, .seed = seed});
  std::vector<int32_t> tokens;
  for (int i = 0; i < n; ++i) tokens.push_back(sampler.next(kLogits));
  return tokens;
}

}  // namespace

TEST_SUITE("sampler") {
  TEST_CASE("greedy takes the largest logit, the lowest id on a tie") {
    Sampler sampler({});
    CHECK(sampler.next(kLogits) == 1);
    CHECK(sampler.next(std::vector<float>{-INFINITY, -5.0f}) == 1);
  }

  TEST_CASE("a seed gives the same tokens, on every machine") {
    CHECK(draw(1, 100) == draw(1, 100));
    CHECK(draw(1, 100) != draw(2, 100));
    // SplitMix64 from state 0 begins with 0xe220a8397b1dcdaf: 0.883 of [0, 1) falls to id 4 (cumulative .40 .79 .94).
    CHECK(draw(0, 1).front() == 4);
  }

  TEST_CASE("tokens come as often as the softmax says") {
    constexpr int n = 20000;
    for (const float temperature : {0.5f, 1.0f, 2.0f}) {
      double total = 0;
      for (const float logit : kLogits) total += std::exp(double{logit} / double{temperature});
      const auto counts = frequencies({.temperature = temperature, .seed = 3}, n);
      for (size_t id = 0; id < kLogits.size(); ++id) {
        const double p = std::exp(double{kLogits[id]} / double{temperature}) / total;
        const auto found = counts.find(static_cast<int32_t>(id));
        const double frequency = found == counts.end() ? 0 : found->second;
        CHECK(std::abs(frequency - p) < 5 * std::sqrt(p * (1 - p) / n));  // five standard deviations
      }
    }
  }

  TEST_CASE("top-k and top-p leave only the most likely tokens") {
    CHECK(frequencies({.temperature = 1, .top_k = 1}, 50).size() == 1);
    const auto two = frequencies({.temperature = 1, .top_k = 2}, 2000);
    CHECK(two.size() == 2);
    CHECK((two.contains(1) && two.contains(3)));
    // Softmax: .396 .396 .146 .054 .007, so that 0.5 needs two tokens and 0.8 three.
    CHECK(frequencies({.temperature = 1, .top_p = 0.1f}, 2000).size() == 1);
    CHECK(frequencies({.temperature = 1, .top_p = 0.5f}, 2000).size() == 2);
    CHECK(frequencies({.temperature = 1, .top_p = 0.8f}, 2000).size() == 3);
    CHECK(frequencies({.temperature = 1, .top_k = 100, .top_p = 1}, 5000).size() == 5);
  }

  TEST_CASE("damaged logits and bad options are errors") {
    for (const float temperature : {0.0f, 1.0f}) {
      Sampler sampler({.temperature = temperature});
      CHECK_THROWS_AS(sampler.next(std::vector<float>{1.0f, NAN}), Error);
      CHECK_THROWS_AS(sampler.next(std::vector<float>{1.0f, INFINITY}), Error);
      CHECK_THROWS_AS(sampler.next(std::vector<float>{-INFINITY, -INFINITY}), Error);
      CHECK_THROWS_AS(sampler.next({}), Error);
    }
    CHECK_THROWS_AS(Sampler({.temperature = -1}), Error);
    CHECK_THROWS_AS(Sampler({.temperature = NAN}), Error);
    CHECK_THROWS_AS(Sampler({.top_k = -1}), Error);
    CHECK_THROWS_AS(Sampler({.top_p = 0}), Error);
    CHECK_THROWS_AS(Sampler({.top_p = 1.5f}), Error);
  }
}

}  // namespace squeeze
