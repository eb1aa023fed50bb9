// Tests of quest: the bound is one, pages are runs of tokens, all keys are dense attention.
#include "lib/attention/quest.hpp"

#include <doctest/doctest.h>

#include <set>

#include "lib/attention/key_choice.hpp"
#include "lib/index/quantise_kv.hpp"
#include "tests/apply_policy.hpp"
#include "tests/made_attention.hpp"

namespace squeeze {
namespace {

constexpr float kScale = 0.35f;

std::set<int32_t> selected_tokens(const HeadView& head, const Selection& selection) {
  std::set<int32_t> tokens;
  for (const RowRange& range : selection.ranges) {
    for (int32_t row = range.begin; row < range.end; ++row) tokens.insert(head.token_of_row[static_cast<size_t>(row)]);
  }
  return tokens;
}

}  // namespace

TEST_SUITE("quest") {
  TEST_CASE("a page's bound is at least the logit of each of its keys") {
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      const MadeContext made(1, 205, 16, dtype, {{.count = 12}});  // 193 clustered: the last page holds one key
      const HeadView head = made.layer.head(0);
      const Pages pages = make_pages(head);
      REQUIRE(pages.n_pages() == 13);
      const Tensor queries = random_tensor({5, 16}, 3);
      std::vector<float> bounds(static_cast<size_t>(5 * pages.n_pages()));
      page_bounds(pages, queries, kScale, bounds.data());
      const double slack =
          16 * std::pow(2.0, -23) * kScale * 16 * largest_magnitude(queries) * largest_magnitude(made.keys);
      for (int64_t q = 0; q < 5; ++q) {
        for (int64_t token = head.n_sinks; token < head.n_tokens() - head.n_window; ++token) {
          double logit = 0;
          for (int64_t c = 0; c < 16; ++c) {
            logit += double{kScale} * double{queries.f32()[q * 16 + c]} *
                     double{load_element(made.keys.data(), dtype, token * 16 + c)};
          }
          const int64_t page = (token - head.n_sinks) / kPageTokens;
          CHECK(logit <= double{bounds[static_cast<size_t>(q * pages.n_pages() + page)]} + slack);
        }
      }
      CHECK(pages.n_bytes() == 2 * 13 * 16 * static_cast<int64_t>(size_of(dtype)));
    }
  }

  TEST_CASE("bounds of keys in 8 bits are rounded as they are") {
    MadeContext made(1, 205, 16, DType::bf16, {{.count = 12}});
    quantise_kv(made.layer);
    const HeadView head = made.layer.head(0);
    HeadView wide = head;
    Tensor keys(DType::f32, head.keys.shape());
    head.key_rows().widen(0, head.n_tokens(), keys.f32());
    wide.keys = keys;
    wide.key_scales = {};
    const Pages pages = make_pages(head), exact = make_pages(wide);
    CHECK(pages.n_bytes() == 2 * 13 * (16 + 4));
    for (int64_t page = 0; page < 13; ++page) {
      float rounded[16];
      pages.max_rows().widen(page, page + 1, rounded);
      for (int64_t c = 0; c < 16; ++c) {
        const float step = pages.max_scales[static_cast<size_t>(page)];
        CHECK(std::abs(rounded[c] - exact.max.f32()[page * 16 + c]) <= 0.5001f * step);
      }
    }
  }

  TEST_CASE("whole pages of consecutive tokens are read, up to the number of keys") {
    const MadeContext made(1, 212, 8, DType::f32, {{.count = 12}});  // 200 clustered, the last page holds 8
    const HeadView head = made.layer.head(0);
    const Tensor queries = random_tensor({4, 8}, 2);
    for (const double keys : {1.0 / 200, 17.0, 64.0, 0.5, 1.0}) {
      const Selection selection = apply(quest_policy(keys, kScale), 0, 0, head, queries, 2);
      const std::set<int32_t> tokens = selected_tokens(head, selection);
      CHECK(static_cast<int64_t>(tokens.size()) == selection.n_keys);
      CHECK(selection.n_keys <= std::max<int64_t>(16, key_count(keys, 200)));
      CHECK(selection.n_keys >= 8);
      CHECK(selection.index_bytes == 2 * 13 * 8 * 4);
      for (const int32_t token : tokens) {
        const int32_t first = (token - head.n_sinks) / 16 * 16 + head.n_sinks;
        for (int32_t t = first; t < std::min(first + 16, 202); ++t) CHECK(tokens.contains(t));
      }
    }
    CHECK(apply(quest_policy(1, kScale), 0, 0, head, queries, 2).ranges == everything(head).ranges);
  }

  TEST_CASE("one query ranks pages by their bounds") {
    const MadeContext made(1, 252, 8, DType::f32, {{.count = 12}});  // 15 whole pages
    const HeadView head = made.layer.head(0);
    const Tensor query = random_tensor({1, 8}, 5);
    const Pages pages = make_pages(head);
    std::vector<float> bounds(static_cast<size_t>(pages.n_pages()));
    page_bounds(pages, query, kScale, bounds.data());
    const auto best = static_cast<int32_t>(std::max_element(bounds.begin(), bounds.end()) - bounds.begin());
    const std::set<int32_t> tokens = selected_tokens(head, apply(quest_policy(16, kScale), 0, 0, head, query, 1));
    CHECK(*tokens.begin() == head.n_sinks + best * 16);
  }

  TEST_CASE("each head has its own pages, from any thread") {
    const MadeContext made(2, 252, 8, DType::f32, {{.count = 12}});
    const Tensor queries = random_tensor({2, 8}, 2);
    const ThreadsGuard guard;
    set_threads(4);
    const Policy policy = quest_policy(0.3, kScale);
    std::vector<Selection> found(16);
    parallel_for(16, [&](int64_t i) {
      const auto head = static_cast<int>(i % 2);
      found[static_cast<size_t>(i)] = apply(policy, 0, head, made.layer.head(head), queries, 1);
    });
    for (size_t i = 0; i < found.size(); ++i) {
      const auto head = static_cast<int>(i % 2);
      CHECK(found[i].ranges == apply(quest_policy(0.3, kScale), 0, 0, made.layer.head(head), queries, 1).ranges);
    }
  }
}

}  // namespace squeeze
