// Tests of block_scores: the scores against their definition, what views mean, and the three cuts.
#include "lib/attention/block_scores.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "lib/attention/keeper.hpp"
#include "lib/core/error.hpp"

namespace squeeze {
namespace {

// Rows of logits for a block of tokens x heads, with sizes and with clusters that an upper stage dropped.
struct Block {
  BlockShape shape;
  int64_t n;
  std::vector<float> logits, sizes, dropped_logits;  // [n_rows, n], [n], [n_rows, n_dropped]
  int64_t n_dropped;

  Block(GqaSelect select, int64_t group, int64_t n_tokens, int64_t n_items, int64_t n_gone, unsigned seed)
      : shape{group * n_tokens, {select, group}}, n(n_items), n_dropped(n_gone) {
    std::mt19937 random(seed);
    std::uniform_real_distribution<float> uniform(-20, 20);
    for (int64_t i = 0; i < shape.n_rows * n; ++i) logits.push_back(uniform(random));
    for (int64_t i = 0; i < n; ++i) sizes.push_back(static_cast<float>(1 + random() % 30));
    for (int64_t i = 0; i < shape.n_rows * n_dropped; ++i) dropped_logits.push_back(uniform(random));
  }
  DroppedMass dropped() const {
    DroppedMass mass(shape.n_rows);
    mass.add(std::vector<DroppedCluster>(static_cast<size_t>(n_dropped)), dropped_logits);
    return mass;
  }
  BlockScores scores(bool sized = true) const {
    std::vector<float> own = logits;
    return block_scores(own, n, sized ? std::span<const float>(sizes) : std::span<const float>(), dropped(), shape);
  }
  // The share of a row's attention that was dropped, and the score of each item.
  std::pair<double, std::vector<double>> row(int64_t r, bool sized) const {
    double gone = 0, sum = 0;
    for (int64_t i = 0; i < n_dropped; ++i) gone += std::exp(double{dropped_logits[size_t(r * n_dropped + i)]});
    std::vector<double> out;
    for (int64_t i = 0; i < n; ++i) {
      out.push_back(std::exp(double{logits[size_t(r * n + i)]}));
      sum += out.back() * (sized ? double{sizes[size_t(i)]} : 1.0);
    }
    for (double& x : out) x /= sum + gone;
    return {gone / (sum + gone), out};
  }
  // Of float32 scores, relative: a logit less the maximum is off by 2^-24 of at most 40, exp by two units, sums of n
  // items and n_rows rows by a unit each, and the dropped mass alike.
  double tolerance() const { return 0x1p-23 * double(40 + 16 + n + n_dropped + shape.n_rows); }
};

int64_t keys_in(const std::vector<char>& keep, std::span<const float> sizes) {
  int64_t sum = 0;
  for (size_t i = 0; i < keep.size(); ++i) sum += keep[i] ? (sizes.empty() ? 1 : static_cast<int64_t>(sizes[i])) : 0;
  return sum;
}

BlockScores one_view(std::vector<float> scores) {
  const auto n = std::ssize(scores);
  return {std::move(scores), n};
}

constexpr GqaSelect kSelects[] = {GqaSelect::group_mean, GqaSelect::group_max, GqaSelect::per_head};

}  // namespace

TEST_SUITE("block_scores") {
  TEST_CASE("scores equal the definition, with sizes and dropped mass, and sum to one") {
    for (const GqaSelect select : kSelects) {
      for (const int64_t group : {1, 2, 7}) {
        for (const int64_t n_tokens : {1, 5}) {
          for (const int64_t n : {1, 15, 16, 17, 200}) {
            for (const int64_t n_dropped : {0, 1, 40}) {
              for (const bool sized : {true, false}) {
                const Block block(select, group, n_tokens, n, n_dropped, static_cast<unsigned>(n + group));
                const BlockScores found = block.scores(sized);
                const int64_t n_heads = select == GqaSelect::group_mean ? 1 : group;
                std::vector<std::vector<double>> views(size_t(n_heads), std::vector<double>(size_t(n), 0.0));
                std::vector<double> gone(size_t(n_heads), 0.0);
                for (int64_t r = 0; r < block.shape.n_rows; ++r) {
                  const auto [dropped, row] = block.row(r, sized);
                  const auto v = size_t(r % n_heads);
                  const double share = double(n_heads) / double(block.shape.n_rows);
                  gone[v] += dropped * share;
                  for (size_t i = 0; i < row.size(); ++i) views[v][i] += row[i] * share;
                }
                const bool one = select != GqaSelect::per_head;
                REQUIRE(found.n_views() == (one ? 1 : group));
                for (int64_t v = 0; v < found.n_views(); ++v) {
                  double sum = 0;
                  for (size_t i = 0; i < size_t(n); ++i) {
                    double expected = views[size_t(v)][i];
                    for (const auto& view : views) expected = one ? std::max(expected, view[i]) : expected;
                    CHECK(std::abs(double{found.view(v)[i]} - expected) <= block.tolerance() * expected + 0x1p-149);
                    sum += double{found.view(v)[i]} * (sized ? double{block.sizes[i]} : 1.0);
                  }
                  if (n_heads == 1 || !one) CHECK(std::abs(sum + gone[size_t(v)] - 1) <= block.tolerance());
                }
              }
            }
          }
        }
      }
    }
  }

  TEST_CASE("the largest of the heads' scores is at least their mean, and is the largest of the views") {
    const Block mean(GqaSelect::group_mean, 4, 3, 90, 10, 1);
    Block max = mean, own = mean;
    max.shape.group.select = GqaSelect::group_max;
    own.shape.group.select = GqaSelect::per_head;
    const BlockScores a = mean.scores(), b = max.scores(), c = own.scores();
    CHECK(c.n_views() == 4);
    for (size_t i = 0; i < 90; ++i) {
      CHECK(double{b.scores[i]} >= double{a.scores[i]} * (1 - mean.tolerance()));
      float largest = 0;
      for (int64_t v = 0; v < 4; ++v) largest = std::max(largest, c.view(v)[i]);
      CHECK(b.scores[i] == largest);
    }
    for (const float threshold : a.scores) CHECK(Keeper().above(b, threshold) == Keeper().above(c, threshold));
  }

  TEST_CASE("a group of one head is the same three ways") {
    const Block mean(GqaSelect::group_mean, 1, 6, 50, 3, 2);
    for (const GqaSelect select : kSelects) {
      Block other = mean;
      other.shape.group.select = select;
      CHECK(other.scores().scores == mean.scores().scores);
    }
  }

  TEST_CASE("logits that are not finite are refused, far ones are not") {
    for (const float bad : {NAN, INFINITY, -INFINITY}) {
      for (const size_t at : {0, 8, 30}) {
        Block block(GqaSelect::group_mean, 2, 2, 9, 0, 3);
        block.logits[at] = bad;
        CHECK_THROWS_WITH_AS(block.scores(), doctest::Contains("not finite"), Error);
      }
    }
    Block far(GqaSelect::group_mean, 1, 1, 3, 1, 3);
    far.logits = {1e30f, 0, -1e30f};
    far.dropped_logits = {-3e38f};
    CHECK(far.scores(false).scores == std::vector<float>{1, 0, 0});
    far.dropped_logits = {3e38f};
    CHECK(far.scores(false).scores == std::vector<float>{0, 0, 0});
    CHECK(block_scores({}, 0, {}, DroppedMass(2), {2, {}}).n_views() == 0);
  }

  TEST_CASE("log sum exp, of far numbers and of none") {
    std::vector<float> x = {1000, 999, -1e30f, -INFINITY};
    CHECK(log_sum_exp(x) == doctest::Approx(1000 + std::log1p(std::exp(-1.0))));
    x = {-INFINITY, -INFINITY};
    CHECK(log_sum_exp(x) == -INFINITY);
    CHECK(log_sum_exp({}) == -INFINITY);
  }

  TEST_CASE("dropped mass adds up over stages") {
    DroppedMass mass(2);
    CHECK(mass.log_sum(0) == -INFINITY);
    mass.add({}, {});
    CHECK(mass.log_sum(1) == -INFINITY);
    mass.add(std::vector<DroppedCluster>{{0, 3, 5}, {0, 4, 6}}, std::vector<float>{0, 1, 2, 3});
    mass.add(std::vector<DroppedCluster>{{1, 7, 2}}, std::vector<float>{4, 500});
    CHECK(mass.log_sum(0) == doctest::Approx(std::log(1 + std::exp(1.0) + std::exp(4.0))));
    CHECK(mass.log_sum(1) == doctest::Approx(500));
    Selection selection;
    mass.move_to(selection);
    CHECK(selection.dropped == std::vector<DroppedCluster>{{0, 3, 5}, {0, 4, 6}, {1, 7, 2}});
    CHECK(selection.rest_logits == std::vector<float>{0, 1, 4, 2, 3, 500});
  }

  TEST_CASE("the best: as many keys as asked for, the lower item where scores are equal") {
    std::mt19937 random(4);
    for (const int64_t n : {1, 2, 17, 100}) {
      std::vector<float> scores;
      for (int64_t i = 0; i < n; ++i) scores.push_back(static_cast<float>(random() % 7));  // many are equal
      std::vector<size_t> order(scores.size());
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return scores[a] > scores[b]; });
      for (int64_t k = 0; k <= n + 1; ++k) {
        std::vector<char> expected(scores.size(), 0);
        for (int64_t i = 0; i < std::min(k, n); ++i) expected[order[size_t(i)]] = 1;
        CHECK(Keeper().best(one_view(scores), {}, k) == expected);
        const std::vector<float> ones(scores.size(), 1.0f);
        CHECK(Keeper().best(one_view(scores), ones, k) == expected);
        CHECK(Keeper().best(one_view(scores), ones, k, true) == expected);
      }
    }
  }

  TEST_CASE("the best of many: those that sorting finds, also where most scores are equal or the sample misleads") {
    std::mt19937 random(11);
    for (const int64_t n : {1000, 5000, 40000}) {
      for (const int kind : {0, 1, 2}) {
        BlockScores scores{std::vector<float>(static_cast<size_t>(n)), n};
        for (int64_t i = 0; i < n; ++i) {
          float& x = scores.scores[static_cast<size_t>(i)];
          x = std::uniform_real_distribution<float>()(random);
          if (kind == 1) x = std::floor(4 * x);
          if (kind == 2) x = i % (n / 500) == 0 ? 1 + x : x;  // large just where samples may be taken
        }
        std::vector<size_t> order(static_cast<size_t>(n));
        std::iota(order.begin(), order.end(), size_t{0});
        std::stable_sort(order.begin(), order.end(),
                         [&](size_t a, size_t b) { return scores.scores[a] > scores.scores[b]; });
        for (const int64_t count : {int64_t{1}, int64_t{7}, n / 30, n / 3, n - 1, n}) {
          std::vector<char> expected(static_cast<size_t>(n), 0);
          for (int64_t i = 0; i < count; ++i) expected[order[static_cast<size_t>(i)]] = 1;
          CHECK(Keeper().best(scores, {}, count) == expected);
        }
      }
    }
  }

  TEST_CASE("logits become weights, and scores those of the weights") {
    const int64_t n = 100, n_rows = 3;
    std::mt19937 random(12);
    std::vector<float> logits(n_rows * n);
    for (float& x : logits) x = std::uniform_real_distribution<float>(-9, 9)(random);
    const DroppedMass nothing(n_rows);
    for (const GqaSelect select : {GqaSelect::group_mean, GqaSelect::group_max, GqaSelect::per_head}) {
      const BlockShape shape{n_rows, {select, n_rows}};
      std::vector<float> weights = logits;
      const BlockScores expected = block_scores(weights, n, {}, nothing, shape);
      BlockScores found;
      for (int64_t r = 0; r < n_rows; ++r) {
        const float max = *std::max_element(logits.begin() + r * n, logits.begin() + (r + 1) * n);
        double sum = 0;
        for (int64_t i = r * n; i < (r + 1) * n; ++i) {
          const double weight = std::exp(double{logits[size_t(i)]} - double{max});
          CHECK(weights[size_t(i)] == doctest::Approx(weight).epsilon(1e-6));
          sum += weight;
        }
        found.factors.push_back(static_cast<float>(1 / sum));
      }
      found = scores_of_weights(weights, n, shape, std::move(found));
      REQUIRE(found.scores.size() == expected.scores.size());
      for (size_t i = 0; i < expected.scores.size(); ++i) {
        CHECK(found.scores[i] == doctest::Approx(expected.scores[i]).epsilon(1e-5));
      }
    }
  }

  TEST_CASE("the best of clusters: up to the first that does not fit, or past it") {
    const BlockScores scores = one_view({0.5f, 0.4f, 0.3f, 0.2f});
    const std::vector<float> sizes = {10, 20, 5, 1};
    const auto keep = [&](int64_t k, bool skip) { return Keeper().best(scores, sizes, k, skip); };
    CHECK(keep(0, false) == std::vector<char>{0, 0, 0, 0});
    CHECK(keep(3, false) == std::vector<char>{1, 0, 0, 0});  // the best one, though it holds more
    CHECK(keep(3, true) == std::vector<char>{1, 0, 0, 0});
    CHECK(keep(15, false) == std::vector<char>{1, 0, 0, 0});
    CHECK(keep(15, true) == std::vector<char>{1, 0, 1, 0});
    CHECK(keep(16, true) == std::vector<char>{1, 0, 1, 1});
    CHECK(keep(30, false) == std::vector<char>{1, 1, 0, 0});
    CHECK(keep(36, false) == std::vector<char>{1, 1, 1, 1});
  }

  TEST_CASE("heads that choose for themselves share the keys: together never more than asked for") {
    for (const int64_t group : {1, 2, 5}) {
      const Block block(GqaSelect::per_head, group, 2, 60, 0, 6);
      const BlockScores scores = block.scores(false);
      for (int64_t k = 0; k <= 61; ++k) {
        const std::vector<char> keep = Keeper().best(scores, {}, k);
        CHECK(keys_in(keep, {}) <= k);
        for (int64_t v = 0; v < std::min(group, k); ++v) {  // each head's best is in
          const auto best = std::max_element(scores.view(v).begin(), scores.view(v).end()) - scores.view(v).begin();
          CHECK(keep[size_t(best)]);
        }
      }
    }
  }

  TEST_CASE("mass: as few of the best as reach it, in every view") {
    const BlockScores scores = one_view({0.1f, 0.2f, 0.05f});
    const std::vector<float> sizes = {2, 3, 4};  // masses 0.2, 0.6, 0.2
    CHECK(Keeper().mass(scores, sizes, 0) == std::vector<char>{0, 0, 0});
    CHECK(Keeper().mass(scores, sizes, 0.5) == std::vector<char>{0, 1, 0});
    CHECK(Keeper().mass(scores, sizes, 0.7) == std::vector<char>{1, 1, 0});
    CHECK(Keeper().mass(scores, sizes, 0.9) == std::vector<char>{1, 1, 1});
    const Block block(GqaSelect::per_head, 3, 2, 40, 5, 7);
    const BlockScores views = block.scores();
    const std::vector<char> keep = Keeper().mass(views, block.sizes, 0.5);
    for (int64_t v = 0; v < 3; ++v) {
      double held = 0, all = 0;
      for (size_t i = 0; i < 40; ++i) {
        const double mass = double{views.view(v)[i]} * double{block.sizes[i]};
        all += mass;
        held += keep[i] ? mass : 0;
      }
      CHECK(held >= std::min(0.5, all) - block.tolerance());
    }
  }
}

}  // namespace squeeze
