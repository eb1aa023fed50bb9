// Causal attention against a plain softmax in float64.
#include "lib/attention/dense_cache.hpp"

#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <cstring>

#include "lib/core/error.hpp"
#include "lib/core/parallel.hpp"

namespace squeeze {
namespace {

constexpr int kKvHeads = 2, kGroup = 3, kDim = 10;

ModelInfo model() {
  return {.model_name = "m",
          .model_fingerprint = "",
          .n_layers = 2,
          .n_query_heads = kKvHeads * kGroup,
          .n_kv_heads = kKvHeads,
          .head_dim = kDim,
          .softmax_scale = 0.4f,
          .rope = "{}"};
}

Tensor random_tensor(Shape shape, uint32_t seed) {
  Tensor values(DType::f32, shape);
  for (int64_t i = 0; i < values.n_elements(); ++i) {
    seed = seed * 1664525u + 1013904223u;
    values.f32()[i] = static_cast<float>(seed >> 8) * 0x1p-22f - 2.0f;
  }
  return values;
}

struct Sequence {
  explicit Sequence(int64_t n)
      : queries(random_tensor({n, kKvHeads * kGroup, kDim}, 1)),
        keys(random_tensor({n, kKvHeads, kDim}, 2)),
        values(random_tensor({n, kKvHeads, kDim}, 3)) {}

  AttentionInput input(int layer, int64_t begin, int64_t end) const {
    return {layer, begin, queries.view().slice(begin, end), keys.view().slice(begin, end),
            values.view().slice(begin, end)};
  }
  Tensor queries, keys, values;
};

// Element c of the output of one query head at token t.
double exact(const Sequence& s, int64_t t, int64_t head, int64_t c) {
  const int64_t kv_head = head / kGroup;
  double sum = 0, weighted = 0;
  for (int64_t row = 0; row <= t; ++row) {
    double logit = 0;
    for (int64_t i = 0; i < kDim; ++i) {
      logit += double{s.queries[t][head].f32()[i]} * double{s.keys[row][kv_head].f32()[i]};
    }
    const double weight = std::exp(double{0.4f} * logit);
    sum += weight;
    weighted += weight * double{s.values[row][kv_head].f32()[c]};
  }
  return weighted / sum;
}

double largest_error(const Sequence& s, TensorView out, int64_t first) {
  double error = 0;
  for (int64_t t = 0; t < out.size(0); ++t) {
    for (int64_t head = 0; head < out.size(1); ++head) {
      for (int64_t c = 0; c < kDim; ++c) {
        const double difference = std::abs(double{out[t][head].f32()[c]} - exact(s, first + t, head, c));
        if (!(difference <= error)) error = difference;
      }
    }
  }
  return error;
}

// Values are at most 2, weights sum to 1: float32 rounding of n additions.
double bound(int64_t n) { return 2 * static_cast<double>(n + kDim) * 0x1p-22; }

}  // namespace

TEST_SUITE("dense_cache") {
  TEST_CASE("chunks of any size give causal attention, in every layer") {
    for (const int64_t chunk : {1, 5, 16, 17, 70}) {
      const Sequence s(70);
      DenseCache cache(model(), DType::f32);
      for (int layer = 0; layer < 2; ++layer) {
        for (int64_t begin = 0; begin < 70; begin += chunk) {
          const TensorView out = cache.attend(s.input(layer, begin, std::min<int64_t>(70, begin + chunk)));
          CHECK(largest_error(s, out, begin) < bound(70));
        }
      }
    }
  }

  TEST_CASE("the cache holds keys and values head by head, rounded to its type") {
    for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
      const Sequence s(9);
      DenseCache cache(model(), dtype);
      (void)cache.attend(s.input(1, 0, 4));
      (void)cache.attend(s.input(1, 4, 9));
      CHECK(cache.keys(0).n_elements() == 0);
      REQUIRE(cache.keys(1).shape() == Shape{kKvHeads, 9, kDim});
      const Tensor rounded = convert(s.values, dtype);
      for (int64_t head = 0; head < kKvHeads; ++head) {
        for (int64_t t = 0; t < 9; ++t) {
          CHECK(std::memcmp(cache.values(1)[head][t].data(), rounded[t][head].data(), kDim * size_of(dtype)) == 0);
        }
      }
      CHECK_NOTHROW(
          cache.attend({1, 9, s.queries.view().slice(0, 1), s.keys.view().slice(0, 1), s.values.view().slice(0, 1)}));
    }
  }

  TEST_CASE("parts one after the other are one sequence") {
    const Sequence s(40);
    DenseCache whole(model(), DType::f32);
    (void)whole.attend(s.input(0, 0, 25));
    DenseCache rest(model(), DType::f32);
    (void)rest.attend(
        {0, 0, s.queries.view().slice(25, 40), s.keys.view().slice(25, 40), s.values.view().slice(25, 40)});
    const std::array<CachePart, 2> parts{CachePart{whole.keys(0), whole.values(0), 25},
                                         CachePart{rest.keys(0), rest.values(0), 15}};
    CausalScratch scratch;
    Tensor out;
    causal_attention(s.queries.view().slice(25, 40), parts, 0.4f, scratch, out);
    CHECK(largest_error(s, out, 25) < bound(40));
  }

  TEST_CASE("the result does not depend on the number of threads") {
    const Sequence s(100);
    const int before = n_threads();
    std::vector<Tensor> results;
    for (const int n : {1, 2, 5}) {
      set_threads(n);
      DenseCache cache(model(), DType::bf16);
      results.push_back(cache.attend(s.input(0, 0, 100)).clone());
    }
    set_threads(before);
    CHECK(std::memcmp(results[0].data(), results[1].data(), results[0].n_bytes()) == 0);
    CHECK(std::memcmp(results[0].data(), results[2].data(), results[0].n_bytes()) == 0);
  }

  TEST_CASE("a gap or a repetition in the positions is an error") {
    const Sequence s(10);
    DenseCache cache(model(), DType::f32);
    (void)cache.attend(s.input(0, 0, 4));
    CHECK_THROWS_AS(cache.attend(s.input(0, 5, 6)), Error);
    CHECK_THROWS_AS(cache.attend(s.input(0, 3, 6)), Error);
    CHECK_THROWS_AS(cache.attend(s.input(1, 4, 6)), Error);
  }
}

}  // namespace squeeze
