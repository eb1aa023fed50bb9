// Tests of query blocks: which tokens of a call select together, and that this changes nothing but the selection.
#include <doctest/doctest.h>

#include "lib/attention/budget.hpp"
#include "lib/attention/context_attention.hpp"
#include "lib/core/error.hpp"
#include "tests/made_attention.hpp"
#include "tests/made_sketches.hpp"

namespace squeeze {
namespace {

constexpr int64_t kContext = 300, kDim = 16, kTokens = 21;

struct Made {
  ModelInfo model = model_of(6, 2, kDim);
  Tensor keys, values;
  IndexLayer layer;
  ContextView context;
  NewTokens tokens{model, kTokens};

  explicit Made(DType dtype)
      : keys(topic_keys(2, kContext, kDim, 5, 11, dtype)),
        values(random_tensor({2, kContext, kDim}, 12, dtype)),
        layer(build_layer(keys, values,
                          options_of({.levels = {{.count = 5}, {.count = 20}}, .bits = 1, .quantise = true}))),
        context{model, {heads_of(layer)}} {}
};

// About 40 keys, chosen by their sketches.
Policy sparse() { return rule_policy({.rule = Rule::top_k, .thresholds = {0.001f, 0.002f}, .top_k = 40}, kMadeScale); }

struct Run {
  Tensor out;
  Usage usage;
};

// All tokens in calls of `step`, selecting in blocks of `block`.
Run run(const Made& made, const Policy& policy, int64_t step, int64_t block, Rest rest = Rest::mean) {
  ContextAttention attention(made.context, policy, rest, block);
  Run result{Tensor(DType::f32, made.tokens.queries.shape()), {}};
  for (int64_t begin = 0; begin < kTokens; begin += step) {
    const TensorView part = attention.attend(made.tokens.input(kContext, begin, std::min(kTokens, begin + step)));
    std::memcpy(result.out.at(begin * part.size(1) * kDim), part.data(), part.n_bytes());
  }
  result.usage = attention.usage();
  return result;
}

}  // namespace

TEST_SUITE("query_block") {
  TEST_CASE("a block of all tokens or more is one selection for the call") {
    const Made made(DType::bf16);
    const Run whole = run(made, sparse(), kTokens, 0);
    CHECK(whole.usage.n_lookups == 2);
    CHECK(whole.usage.sparsity() > 0.5);
    for (const int64_t block : {kTokens, kTokens + 1, int64_t{1} << 20}) {
      const Run found = run(made, sparse(), kTokens, block);
      CHECK(same_bytes(found.out, whole.out));
      CHECK(found.usage.bytes_read == whole.usage.bytes_read);
      CHECK(found.usage.n_lookups == 2);
    }
    CHECK_FALSE(same_bytes(run(made, sparse(), kTokens, 8).out, whole.out));
  }

  TEST_CASE("blocks in one call are the calls one after the other, bit for bit") {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const Made made(dtype);
      for (const Rest rest : {Rest::drop, Rest::mean}) {
        for (const int64_t block : {1, 2, 5, 8}) {
          CAPTURE(block);
          const Run at_once = run(made, sparse(), kTokens, block, rest), in_turn = run(made, sparse(), block, 0, rest);
          CHECK(same_bytes(at_once.out, in_turn.out));
          CHECK(at_once.usage.bytes_read == in_turn.usage.bytes_read);
          CHECK(at_once.usage.n_lookups == 2 * ((kTokens + block - 1) / block));
          CHECK(in_turn.usage.n_lookups == at_once.usage.n_lookups);
        }
      }
    }
  }

  TEST_CASE("the full budget is dense attention for every block") {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const Made made(dtype);
      const auto truth = truth_of(made.model, made.keys, made.values, made.tokens);
      const double bound = bound_of(made.keys, made.values, made.tokens);
      for (const Policy& policy : {dense_policy(), budget_policy({}, 1, Rest::mean, kMadeScale), rule_policy({}, 1)}) {
        for (const int64_t block : {0, 1, 3, 8, 20, 64}) {
          const Run found = run(made, policy, kTokens, block);
          CHECK(largest_difference(found.out, truth) <= bound);
          CHECK(found.usage.budget() == 1);
        }
      }
    }
  }

  TEST_CASE("the number of threads changes nothing") {
    const ThreadsGuard guard;
    const Made made(DType::bf16);
    set_threads(1);
    const Run one = run(made, sparse(), kTokens, 4);
    for (const int threads : {2, 5}) {
      set_threads(threads);
      CHECK(same_bytes(run(made, sparse(), kTokens, 4).out, one.out));
    }
  }

  TEST_CASE("a policy is told the tokens of its block, and a negative block is refused") {
    const Made made(DType::f32);
    const auto is_block = [&](int64_t first, int kv_head, TensorView queries, int64_t n_tokens) {
      if (n_tokens != std::min<int64_t>(8, kTokens - first) || queries.size(0) != 3 * n_tokens) return false;
      for (int64_t row = 0; row < queries.size(0); ++row) {
        if (!same_bytes(queries[row], made.tokens.queries[first + row / 3][kv_head * 3 + row % 3])) return false;
      }
      return true;
    };
    const Policy policy = [&](int, int kv_head, const HeadView& head, TensorView queries, int64_t n_tokens,
                              LookupScratch&) {
      const bool known = is_block(0, kv_head, queries, n_tokens) || is_block(8, kv_head, queries, n_tokens) ||
                         is_block(16, kv_head, queries, n_tokens);
      if (!known) fail("wrong queries");
      return everything(head);
    };
    CHECK_NOTHROW(run(made, policy, kTokens, 8));
    CHECK_THROWS_WITH_AS(ContextAttention(made.context, policy, Rest::drop, -1), doctest::Contains("query block"),
                         Error);
  }
}

}  // namespace squeeze
