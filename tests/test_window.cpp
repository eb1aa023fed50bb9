// Tests of window: the most recent tokens, whatever their rows.
#include "lib/attention/window.hpp"

#include <doctest/doctest.h>

#include "tests/apply_policy.hpp"
#include "tests/made_attention.hpp"

namespace squeeze {

TEST_SUITE("window") {
  TEST_CASE("the most recent clustered tokens are read, and nothing to find them") {
    const MadeContext made(1, 200, 8, DType::f32, {{.count = 12}}, 3, 10);  // clustered: tokens 3 .. 189
    const HeadView head = made.layer.head(0);
    const Tensor queries = random_tensor({2, 8}, 1);
    for (const int64_t keys : {2, 30, 186}) {
      const Selection selection = apply(window_policy(static_cast<double>(keys)), 0, 0, head, queries, 1);
      CHECK(selection.n_keys == keys);
      CHECK(selection.n_scored == 0);
      CHECK(selection.index_bytes == 0);
      for (const RowRange& range : selection.ranges) {
        for (int32_t row = range.begin; row < range.end; ++row) {
          CHECK(head.token_of_row[static_cast<size_t>(row)] >= 190 - keys);
        }
      }
    }
    CHECK(apply(window_policy(0.1), 0, 0, head, queries, 1).n_keys == 19);
    CHECK(apply(window_policy(1), 0, 0, head, queries, 1).ranges == everything(head).ranges);
  }
}

}  // namespace squeeze
