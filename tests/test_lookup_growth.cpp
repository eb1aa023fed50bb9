// Tests of how lookups grow: with four times the context a tree scores hardly more and finds what a flat lookup finds.
#include <doctest/doctest.h>

#include "tests/growth.hpp"

using namespace squeeze;

namespace {

struct Grown {
  LookupFigures tree, flat;
};

// A quarter of the tokens as leaves: short contexts with as many leaves as long ones have.
Grown grown(int64_t n_tokens) {
  const PlantedContext context = PlantedKeys({.n_tokens = n_tokens, .queries_per_question = 2}).make();
  IndexOptions options = growth_options(0.25, n_tokens, 4096);
  options.iterations = 4;
  const IndexLayer layer = build_layer(context.keys, context.keys, options);
  const HeadView head = layer.head(0);
  const GrowthLookup lookup{.n_sketches = 2048, .n_keys = 256};
  Grown result{{}, measure(flat(head), context, lookup)};
  result.tree = measure(head, context, {default_upper_keep(options, n_tokens), lookup.n_sketches, lookup.n_keys});
  return result;
}

}  // namespace

TEST_SUITE("lookup_growth") {
  TEST_CASE("rows scored grow slowly, and recall stays that of the flat lookup") {
    const Grown small = grown(4096);
    const Grown large = grown(16384);
    CHECK(small.tree.rows_scored == small.flat.rows_scored);  // leaves only
    CHECK(large.flat.rows_scored >= 3.9 * small.flat.rows_scored);
    CHECK(large.tree.rows_scored <= 2.2 * small.tree.rows_scored);
    CHECK(large.tree.recall >= large.flat.recall - 0.01);
    CHECK(large.tree.kept_mass >= large.flat.kept_mass - 0.01);
    CHECK(large.flat.recall > 0.8);
    CHECK(large.tree.n_selected == doctest::Approx(256).epsilon(0.1));
  }

  TEST_CASE("levels: one more per 24 times the context, each scored up to kMaxScored") {
    std::vector<size_t> n_levels;
    for (const int64_t n_tokens : {4096, 65536, 1 << 20, 1 << 24, 1 << 28}) {
      const IndexOptions options = growth_options(0.025, n_tokens, 0);
      const std::vector<double> keep = default_upper_keep(options, n_tokens);
      REQUIRE(keep.size() + 1 == options.levels.size());
      auto scored = static_cast<double>(options.levels[0].of(n_tokens));
      CHECK(scored <= static_cast<double>(kMaxScored));
      for (size_t i = 0; i < keep.size(); ++i) {
        scored += keep[i] * static_cast<double>(options.levels[i + 1].of(n_tokens));
      }
      CHECK(scored <= static_cast<double>(kMaxScored) * static_cast<double>(options.levels.size()) * (1 + 1e-12));
      n_levels.push_back(options.levels.size());
    }
    CHECK(n_levels == std::vector<size_t>{1, 1, 2, 3, 4});
  }
}
