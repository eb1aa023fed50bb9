// Tests of replay: metrics of hand-made cases, laws, and the figures against attention in double precision.
#include "lib/eval/replay.hpp"

#include <doctest/doctest.h>

#include "lib/core/error.hpp"
#include "lib/eval/metrics.hpp"
#include "tests/apply_policy.hpp"
#include "tests/made_attention.hpp"

namespace squeeze {
namespace {

constexpr float kScale = 0.35f;

// Queries of the last n tokens.
struct Recording {
  Tensor queries;
  std::vector<int32_t> positions;

  Recording(int64_t n_query_heads, int64_t first_position, int64_t n, int64_t dim, DType dtype = DType::f32)
      : queries(random_tensor({n_query_heads, n, dim}, 61, dtype)) {
    for (int64_t i = 0; i < n; ++i) positions.push_back(static_cast<int32_t>(first_position + i));
  }
  RecordedQueries view() const { return {queries, positions, {}, {}}; }
};

Policy top_k(int64_t k) {
  SelectionRule rule;
  rule.rule = Rule::top_k;
  rule.top_k = k;
  return rule_policy(rule, kScale);
}

void check_equal(const HeadMetrics& a, const HeadMetrics& b) {
  CHECK(a.kept_mass == b.kept_mass);
  CHECK(a.topk_recall == b.topk_recall);
  CHECK(a.output_error == b.output_error);
  CHECK(a.usage.bytes_read == b.usage.bytes_read);
  CHECK(a.n_rows == b.n_rows);
}

}  // namespace

TEST_SUITE("replay") {
  TEST_CASE("kept mass of hand-made logits") {
    const float log2 = std::log(2.0f);
    const std::vector<float> logits{0, log2, 0, 2 * log2};  // masses 1, 2, 1, 4
    const auto kept = [&](std::vector<RowRange> ranges) { return kept_mass(logits, ranges); };
    CHECK(kept({}) == 0);
    CHECK(kept({{0, 4}}) == 1);
    CHECK(kept({{3, 4}}) == doctest::Approx(0.5));
    CHECK(kept({{0, 1}, {3, 4}}) == doctest::Approx(0.625));
    CHECK(kept({{0, 2}}) == doctest::Approx(0.375));
    CHECK(kept_mass({}, {}) == 1);
    const std::vector<float> huge{1e30f, -1e30f};
    CHECK(kept_mass(huge, std::vector<RowRange>{{0, 1}}) == 1);
  }

  TEST_CASE("top-k recall of hand-made logits") {
    const std::vector<float> logits{5, 1, 4, 3, 3, 0};
    const auto recall = [&](std::vector<RowRange> ranges, int64_t k) { return topk_recall(logits, ranges, k); };
    CHECK(recall({{0, 1}, {2, 3}}, 2) == 1);
    CHECK(recall({{0, 2}}, 2) == 0.5);
    CHECK(recall({{1, 2}, {5, 6}}, 2) == 0);
    CHECK(recall({{0, 1}, {2, 4}}, 3) == 1);  // either of the equal third ones will do
    CHECK(recall({{0, 1}, {2, 3}, {4, 5}}, 3) == 1);
    CHECK(recall({{3, 5}}, 3) == doctest::Approx(1.0 / 3));  // but both of them count once
    CHECK(recall({}, 0) == 0);                               // k is at least 1
    CHECK(recall({{0, 6}}, 100) == 1);
    CHECK(topk_recall({}, {}, 3) == 1);
  }

  TEST_CASE("the full selection keeps everything and has no error beyond rounding") {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const MadeContext made(2, 300, 16, dtype, {{.count = 5}, {.count = 25}}, 2, 20);
      const Recording recorded(4, 280, 20, 16, dtype);
      for (const HeadMetrics& m :
           replay_layer(0, heads_of(made.layer), recorded.view(), dense_policy(), Rest::mean, kScale, 8)) {
        CHECK(m.kept_mass == 1);
        CHECK(m.topk_recall == 1);
        CHECK(m.output_error <= 1e-6);
        CHECK(m.usage.budget() == 1);
        CHECK(m.usage.sparsity() == 0);
        CHECK(m.usage.n_lookups == 3);
        CHECK(m.n_rows == 40);
      }
    }
  }

  TEST_CASE("the figures are those of attention in double precision") {
    const MadeContext made(1, 200, 8, DType::f32, {{.count = 20}}, 2, 16);
    const HeadView head = made.layer.head(0);
    const Recording recorded(1, 190, 4, 8);
    const auto found = replay_layer(0, {head}, recorded.view(), top_k(60), Rest::drop, kScale, 1);
    double mass = 0, error = 0, norm = 0;
    for (int64_t t = 0; t < 4; ++t) {
      const TensorView query = recorded.queries[0].slice(t, t + 1);
      const Selection selection = apply(top_k(60), 0, 0, head, query, 1);
      std::vector<char> read(200, 1);
      for (int64_t row = 2; row < 184; ++row) read[static_cast<size_t>(row)] = 0;
      for (const RowRange& r : selection.ranges) std::fill(read.begin() + r.begin, read.begin() + r.end, 1);
      const std::span<const float> q(query.f32(), 8);
      const std::vector<double> weights = exact_weights(q, head.keys, kScale, 191 + t);
      double kept = 0, all = 0, read_mass = 0;
      std::vector<double> sparse(8), dense(8);
      for (size_t row = 0; row < 200; ++row) {
        const bool clustered = row >= 2 && row < 184;
        all += clustered ? weights[row] : 0;
        kept += clustered && read[row] ? weights[row] : 0;
        read_mass += read[row] ? weights[row] : 0;
        for (size_t c = 0; c < 8; ++c) {
          const double term = weights[row] * double{head.values.f32()[row * 8 + c]};
          dense[c] += term;
          sparse[c] += read[row] ? term : 0;
        }
      }
      mass += kept / all / 4;
      for (size_t c = 0; c < 8; ++c) {
        error += std::pow(sparse[c] / read_mass - dense[c], 2);
        norm += dense[c] * dense[c];
      }
    }
    // Each output is within the bound of the truth, so the norm of 32 differences is within 2 sqrt(32) bounds.
    const double bound = 2 * std::sqrt(32.0) * attention_bound(recorded.queries, made.keys, made.values, kScale);
    CHECK(std::fabs(std::sqrt(found[0].error_squares) - std::sqrt(error)) <= bound);
    CHECK(std::fabs(std::sqrt(found[0].dense_squares) - std::sqrt(norm)) <= bound);
    CHECK(found[0].output_error == std::sqrt(found[0].error_squares / found[0].dense_squares));
    CHECK(found[0].kept_mass == doctest::Approx(mass).epsilon(1e-4));
    CHECK(found[0].output_error > 0.01);
    CHECK(found[0].topk_recall > 0);
    CHECK(found[0].topk_recall < 1);
  }

  TEST_CASE("kept mass grows with the budget") {
    const MadeContext made(2, 400, 16, DType::f32, {{.count = 50}}, 2, 20);
    const Recording recorded(4, 380, 20, 16);
    for (const int64_t block : {1, 7}) {
      double last = -1;
      for (const int64_t k : {1, 20, 60, 120, 250, 378}) {
        HeadMetrics pooled;
        for (const HeadMetrics& m :
             replay_layer(0, heads_of(made.layer), recorded.view(), top_k(k), Rest::drop, kScale, block)) {
          pooled.add(m);
        }
        CHECK(pooled.kept_mass >= last);
        CHECK(pooled.kept_mass <= 1);
        last = pooled.kept_mass;
      }
      CHECK(last == 1);
    }
  }

  TEST_CASE("one selection serves a block of query tokens") {
    const MadeContext made(1, 200, 8, DType::f32, {{.count = 20}}, 2, 30);
    const Recording recorded(2, 170, 30, 8);
    const auto lookups = [&](int64_t block) {
      return replay_layer(0, heads_of(made.layer), recorded.view(), top_k(50), Rest::drop, kScale, block)[0]
          .usage.n_lookups;
    };
    CHECK(lookups(1) == 30);
    CHECK(lookups(7) == 5);
    CHECK(lookups(30) == 1);
    CHECK(lookups(1000) == 1);
  }

  TEST_CASE("a question's queries see the context and their own tail, causally") {
    const MadeContext made(2, 100, 8, DType::f32, {{.count = 10}});
    const Recording recorded(4, 100, 6, 8);
    const Tensor tail_keys = random_tensor({2, 6, 8}, 71), tail_values = random_tensor({2, 6, 8}, 72);
    RecordedQueries question = recorded.view();
    question.tail_keys = tail_keys;
    question.tail_values = tail_values;
    const auto found = replay_layer(0, heads_of(made.layer), question, dense_policy(), Rest::drop, kScale, 6);
    for (int64_t h = 0; h < 2; ++h) {
      Tensor keys(DType::f32, {106, 8}), values(DType::f32, {106, 8});
      std::memcpy(keys.data(), made.keys[h].data(), made.keys[h].n_bytes());
      std::memcpy(values.data(), made.values[h].data(), made.values[h].n_bytes());
      std::memcpy(keys.at(800), tail_keys[h].data(), tail_keys[h].n_bytes());
      std::memcpy(values.at(800), tail_values[h].data(), tail_values[h].n_bytes());
      const std::vector<int64_t> visible{101, 102, 103, 104, 105, 106};
      double norm = 0;
      for (int64_t g = 0; g < 2; ++g) {
        for (const double x : exact_attention(recorded.queries[h * 2 + g], keys, values, kScale, visible))
          norm += x * x;
      }
      const double bound = std::sqrt(96.0) * attention_bound(recorded.queries, keys, values, kScale);
      CHECK(std::fabs(std::sqrt(found[static_cast<size_t>(h)].dense_squares) - std::sqrt(norm)) <= bound);
      CHECK(found[static_cast<size_t>(h)].output_error <= 1e-6);
    }
    question.tail_keys = tail_keys.view();
    const std::vector<int32_t> beyond{100, 101, 102, 103, 104, 106};
    question.positions = beyond;
    CHECK_THROWS_AS(replay_layer(0, heads_of(made.layer), question, dense_policy(), Rest::drop, kScale, 6), Error);
  }

  TEST_CASE("the figures do not depend on the number of threads") {
    const ThreadsGuard guard;
    const MadeContext made(2, 300, 8, DType::bf16, {{.count = 30}}, 2, 20);
    const Recording recorded(4, 280, 20, 8, DType::bf16);
    std::vector<std::vector<HeadMetrics>> runs;
    for (const int threads : {1, 2}) {
      set_threads(threads);
      runs.push_back(replay_layer(0, heads_of(made.layer), recorded.view(), top_k(40), Rest::mean, kScale, 3));
    }
    for (size_t h = 0; h < 2; ++h) check_equal(runs[0][h], runs[1][h]);
  }

  TEST_CASE("pooling weighs by query rows, and errors by their squares") {
    HeadMetrics a, b;
    a.n_rows = 1, a.kept_mass = 1, a.topk_recall = 0, a.error_squares = 0, a.dense_squares = 4;
    b.n_rows = 3, b.kept_mass = 0.5, b.topk_recall = 1, b.error_squares = 4, b.dense_squares = 12;
    HeadMetrics pooled;
    pooled.add(a);
    pooled.add(b);
    CHECK(pooled.n_rows == 4);
    CHECK(pooled.kept_mass == doctest::Approx(0.625));
    CHECK(pooled.topk_recall == doctest::Approx(0.75));
    CHECK(pooled.output_error == doctest::Approx(0.5));
    pooled.add(HeadMetrics{});
    CHECK(pooled.kept_mass == doctest::Approx(0.625));
  }

  TEST_CASE("what does not fit is refused") {
    const MadeContext made(2, 100, 8, DType::f32, {{.count = 10}});
    const auto heads = heads_of(made.layer);
    const auto run = [&](const RecordedQueries& recorded, int64_t block) {
      return replay_layer(0, heads, recorded, dense_policy(), Rest::drop, kScale, block);
    };
    const Recording good(4, 90, 10, 8);
    CHECK_NOTHROW(run(good.view(), 4));
    CHECK_THROWS_AS(run(good.view(), 0), Error);
    CHECK_THROWS_AS(run(Recording(3, 90, 10, 8).view(), 4), Error);
    CHECK_THROWS_AS(run(Recording(4, 90, 10, 16).view(), 4), Error);
    CHECK_THROWS_AS(run(Recording(4, 80, 10, 8).view(), 4), Error);  // sees less than all clustered tokens
    RecordedQueries short_positions = good.view();
    short_positions.positions = short_positions.positions.first(9);
    CHECK_THROWS_AS(run(short_positions, 4), Error);
  }
}

}  // namespace squeeze
