// Tests of budgets: bytes asked for are bytes read, per lookup and over all; more bytes keep more attention.
#include "lib/attention/budget.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "lib/attention/usage.hpp"
#include "lib/core/error.hpp"
#include "tests/apply_policy.hpp"
#include "tests/made_model.hpp"

namespace squeeze {
namespace {

constexpr float kScale = MadeModel::kScale;

const SketchedOptions kIndexes[] = {{.levels = {{.count = 20}}, .bits = 0},
                                    {.levels = {{.count = 20}}, .bits = 1, .quantise = true},
                                    {.levels = {{.count = 8}, {.count = 30}}, .bits = 2, .quantise = true},
                                    {.levels = {{.count = 6}, {.count = 30}}, .bits = 0, .quantise = true}};

MadeModel model_with(const SketchedOptions& index) { return made_model({.index = index, .head_dim = 32}); }

int32_t largest_leaf(const HeadView& head) {
  const LevelView& leaves = head.levels.back();
  int32_t largest = 0;
  for (int64_t i = 0; i < leaves.n_clusters(); ++i) largest = std::max(largest, leaves.n_rows(i));
  return largest;
}

// The share of the attention to clustered keys that lies in the selection's rows, averaged over the query rows.
double kept_mass(const HeadView& head, TensorView queries, const Selection& selection) {
  double share = 0;
  for (int64_t q = 0; q < queries.size(0); ++q) {
    const std::vector<double> query = row_of(queries, q);
    std::vector<double> weight;
    double all = 0, kept = 0;
    for (int64_t row = 0; row < head.n_tokens(); ++row) {
      weight.push_back(std::exp(double{kScale} * dot_of(query, row_of(head.keys, row))));
      if (row >= head.n_sinks && row < head.n_tokens() - head.n_window) all += weight.back();
    }
    for (const RowRange& range : selection.ranges) {
      for (int32_t row = range.begin; row < range.end; ++row) kept += weight[size_t(row)];
    }
    share += kept / all / double(queries.size(0));
  }
  return share;
}

}  // namespace

TEST_SUITE("budget") {
  TEST_CASE("a lookup reads its bytes, but for a key, one leaf's sketches and the means of leaves read whole") {
    for (const SketchedOptions& index : kIndexes) {
      const MadeModel model = model_with(index);
      for (const Rest rest : {Rest::drop, Rest::mean}) {
        for (const double share : {0.1, 0.15, 0.3, 0.5}) {
          for_each_block(model, 8, [&](int, int, const HeadView& head, const Tensor& queries, int64_t) {
            SelectionRule rule{.rule = Rule::bytes,
                               .keep_keys = std::vector<int64_t>(index.levels.size() - 1, 650),
                               .bytes = share * double(head.n_tokens() * kv_bytes(head)),
                               .rest = rest,
                               .group = {GqaSelect::group_mean, 2}};
            const Selection selection = select_clusters(head, queries, kScale, rule);
            const auto read = double(usage_of(head, selection, rest).bytes_read);
            const double row = double(kv_bytes(head)), leaf = double(largest_leaf(head));
            if (index.bits == 0) {  // whole leaves: the next does not fit; one is read in any case
              const bool one_leaf = selection.ranges.size() == 1 && selection.n_keys <= int64_t(leaf);
              CHECK((read <= rule.bytes || one_leaf));
              CHECK(read > rule.bytes - leaf * row - 30 * double(mean_bytes(head.levels[0])));
              return;
            }
            CHECK(read <= rule.bytes + leaf * double(head.sketches.present() ? head.sketches.key_bytes() : 0));
            if (selection.n_keys == selection.n_sketched) return;  // there are no more candidates
            CHECK(read > rule.bytes - row - 30 * double(mean_bytes(head.levels[0])));
            if (rest == Rest::drop && selection.n_keys > 0) CHECK(read > rule.bytes - row);
          });
        }
      }
    }
  }

  TEST_CASE("over all lookups a budget is met within 2 %, whatever the block") {
    for (const SketchedOptions& index : kIndexes) {
      const MadeModel model = model_with(index);
      const Calibration calibration = model.calibrated();
      for (const Rest rest : {Rest::drop, Rest::mean}) {
        for (const double budget : {0.12, 0.2, 0.4}) {
          for (const int64_t block_size : {1, 4, 32}) {
            Usage usage;
            const Policy policy = budget_policy(calibration, budget, rest, kScale);
            for_each_block(model, block_size,
                           [&](int l, int h, const HeadView& head, const Tensor& queries, int64_t n) {
                             usage.add(usage_of(head, apply(policy, l, h, head, queries, n), rest));
                           });
            CAPTURE(index.bits);
            CAPTURE(index.levels.size());
            CAPTURE(budget);
            CAPTURE(block_size);
            CHECK(usage.budget() == doctest::Approx(budget).epsilon(0.02));
          }
        }
      }
    }
  }

  TEST_CASE("more bytes keep more of the attention, all bytes are dense attention") {
    for (const SketchedOptions& index : kIndexes) {
      const MadeModel model = model_with(index);
      const Calibration calibration = model.calibrated();
      double last = 0;
      for (const double budget : {0.12, 0.16, 0.2, 0.3, 0.5, 0.7, 1.0}) {
        double mass = 0;
        int64_t n = 0, n_keys = 0;
        const Policy policy = budget_policy(calibration, budget, Rest::drop, kScale);
        for_each_block(model, 8, [&](int l, int h, const HeadView& head, const Tensor& queries, int64_t n_tokens) {
          const Selection selection = apply(policy, l, h, head, queries, n_tokens);
          mass += kept_mass(head, queries, selection);
          n_keys += selection.n_keys;
          if (budget == 1) CHECK(selection.n_scored + selection.n_sketched + std::ssize(selection.dropped) == 0);
          ++n;
        });
        CHECK(mass / double(n) >= last);
        last = mass / double(n);
        if (budget == 1) CHECK(n_keys == 800 * n);
      }
      CHECK(last == doctest::Approx(1));
    }
  }

  TEST_CASE("without heads' shares every head gets the same bytes, with them flat ones more") {
    MadeModel model = model_with(kIndexes[1]);
    for (int64_t i = 0; i < model.queries[1].n_elements() / 2; ++i) model.queries[1].f32()[i] *= 0.02f;
    Calibration calibration = model.calibrated();
    const auto bytes_of_heads = [&] {
      std::vector<double> bytes(4, 0.0);
      const Policy policy = budget_policy(calibration, 0.3, Rest::drop, kScale);
      for_each_block(model, 1, [&](int l, int h, const HeadView& head, const Tensor& queries, int64_t n) {
        const Usage usage = usage_of(head, apply(policy, l, h, head, queries, n), Rest::drop);
        bytes[size_t(2 * l + h)] += usage.budget() / 40;
      });
      return bytes;
    };
    const std::vector<double> shared = bytes_of_heads();
    CHECK(shared[2] > 1.2 * std::max({shared[0], shared[1], shared[3]}));
    for (BlockCalibration& block : calibration.blocks) block.shares = {};
    for (const double bytes : bytes_of_heads()) CHECK(bytes == doctest::Approx(0.3).epsilon(0.01));
  }

  TEST_CASE("less than pinned tokens and centroids cost is refused, and says what they cost") {
    const MadeModel model = model_with(kIndexes[1]);
    const Calibration calibration = model.calibrated();
    const HeadView head = model.layers[0].head(0);
    const Tensor queries = random_tensor({2, 32}, 1);
    const double n_leaves = double(head.levels[0].n_clusters());
    for (const Rest rest : {Rest::drop, Rest::mean}) {
      // 12 pinned tokens; 32 bytes, a scale and a row bound for a centroid, 32 and a scale for a mean; the codebooks.
      const double rows = 12 * 128 + n_leaves * (32 + 4 + 4 + (rest == Rest::mean ? 36 : 0));
      const double fixed = (rows + double(head.sketches.codebook_bytes())) / (812 * 128);
      const auto select = [&](double budget) {
        return apply(budget_policy(calibration, budget, rest, kScale), 0, 0, head, queries, 1);
      };
      CHECK_THROWS_WITH_AS(select(fixed * 0.99),
                           doctest::Contains(fmt::format("less than the {:.2f}% that pinned", 100 * fixed).c_str()),
                           Error);
      CHECK_NOTHROW(select(fixed * 1.01));
    }
    for (const double budget : {0.0, -0.1, 1.01, double{NAN}}) {
      CHECK_THROWS_WITH_AS(budget_policy(calibration, budget, Rest::drop, kScale), doctest::Contains("budget"), Error);
    }
    HeadView none = head;
    none.levels.clear();
    CHECK_THROWS_WITH_AS(apply(budget_policy(calibration, 0.5, Rest::drop, kScale), 0, 0, none, queries, 1),
                         doctest::Contains("no clusters"), Error);
  }
}

}  // namespace squeeze
