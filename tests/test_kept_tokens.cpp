// Tests of kept_tokens: every lookup counts once, by token and not by row.
#include "lib/eval/kept_tokens.hpp"

#include <doctest/doctest.h>

#include "lib/attention/window.hpp"
#include "tests/made_attention.hpp"

namespace squeeze {

TEST_SUITE("kept_tokens") {
  TEST_CASE("tokens are counted once per KV head and block that reads them") {
    const MadeContext made(2, 200, 8, DType::f32, {{.count = 12}}, 3, 10);  // clustered: tokens 3 .. 189
    const Tensor queries = random_tensor({4, 7, 8}, 3);
    const std::vector<int32_t> positions{190, 191, 192, 193, 194, 195, 196};
    const RecordedQueries recorded{queries, positions, {}, {}};
    KeptTokens kept;
    for (int layer = 0; layer < 2; ++layer) {
      kept.add(count_kept_tokens(layer, heads_of(made.layer), recorded, window_policy(30), 3));
    }
    CHECK(kept.n_lookups == 2 * 2 * 3);
    REQUIRE(kept.n_kept.size() == 200);
    for (int64_t token = 0; token < 200; ++token) {
      CHECK(kept.n_kept[static_cast<size_t>(token)] == (token < 3 || token >= 160 ? kept.n_lookups : 0));
    }
  }
}

}  // namespace squeeze
