// Tests of oracle: no policy that reads as many keys keeps more of the attention.
#include "lib/attention/oracle.hpp"

#include <doctest/doctest.h>

#include "lib/attention/quest.hpp"
#include "lib/attention/window.hpp"
#include "lib/eval/metrics.hpp"
#include "tests/apply_policy.hpp"
#include "tests/made_attention.hpp"

namespace squeeze {
namespace {

constexpr float kScale = 0.35f;

// Mean over the query rows, as replay measures it.
double mass_of(const HeadView& head, TensorView queries, const Selection& selection) {
  std::vector<RowRange> ranges = selection.ranges;
  for (RowRange& range : ranges) range = {range.begin - head.n_sinks, range.end - head.n_sinks};
  const int64_t dim = head.keys.size(1);
  std::vector<float> logits(static_cast<size_t>(head.n_clustered()));
  double mass = 0;
  for (int64_t q = 0; q < queries.size(0); ++q) {
    kernels().scores({queries[q].f32(), 1, head.keys.at(head.n_sinks * dim), head.keys.dtype(), head.n_clustered(), dim,
                      kScale, logits.data(), head.n_clustered()});
    mass += kept_mass(logits, ranges);
  }
  return mass / static_cast<double>(queries.size(0));
}

}  // namespace

TEST_SUITE("oracle") {
  TEST_CASE("its kept mass is at least that of any policy with as many keys") {
    const MadeContext made(1, 400, 16, DType::bf16, {{.count = 8}, {.count = 30}});
    const HeadView head = made.layer.head(0);
    for (const int64_t n_rows : {1, 2, 21}) {
      const Tensor queries = random_tensor({n_rows, 16}, 4);
      for (const double keys : {40.0, 100.0, 250.0}) {
        SelectionRule top_k;
        top_k.rule = Rule::top_k;
        top_k.top_k = std::llround(keys);
        for (const Policy& other : {quest_policy(keys, kScale), window_policy(keys), rule_policy(top_k, kScale)}) {
          const Selection theirs = apply(other, 0, 0, head, queries, n_rows);
          const Selection best =
              apply(oracle_policy(static_cast<double>(theirs.n_keys), kScale), 0, 0, head, queries, n_rows);
          CHECK(best.n_keys == theirs.n_keys);
          CHECK(best.index_bytes == 0);
          // Both sum the same float32 logits' exponentials in double, in different orders.
          CHECK(mass_of(head, queries, best) >= mass_of(head, queries, theirs) - 400 * 0x1p-52);
        }
      }
    }
  }

  TEST_CASE("all keys are dense attention") {
    const MadeContext made(1, 100, 8, DType::f32, {{.count = 9}});
    const HeadView head = made.layer.head(0);
    const Selection selection = apply(oracle_policy(1, kScale), 0, 0, head, random_tensor({3, 8}, 1), 3);
    CHECK(selection.ranges == everything(head).ranges);
    CHECK(selection.n_keys == head.n_clustered());
  }
}

}  // namespace squeeze
