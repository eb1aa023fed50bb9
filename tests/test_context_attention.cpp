// Tests of context_attention: running states, context parts, the tail, and what is counted.
#include "lib/attention/context_attention.hpp"

#include <doctest/doctest.h>

#include "lib/core/error.hpp"
#include "tests/made_attention.hpp"

namespace squeeze {
namespace {

constexpr float kScale = kMadeScale;

Tensor attend(const HeadView& head, const Selection& selection, Rest rest, TensorView queries,
              std::span<const int64_t> visible = {}) {
  AttentionState state(queries.size(0), queries.size(1));
  attend_context(head, selection, rest, queries, kScale, visible, state);
  return state.output();
}

// Every third cluster of the leaves.
Selection some_leaves(const HeadView& head) {
  Selection selection;
  const LevelView& leaves = head.levels.back();
  for (int32_t i = 0; i < leaves.n_clusters(); ++i) {
    if (i % 3 == 1) {
      append_range(selection.ranges, {leaves.first_row[i], leaves.first_row[i + 1]});
      selection.n_keys += leaves.n_rows(i);
    } else {
      selection.dropped.push_back({static_cast<int32_t>(head.levels.size()) - 1, i, leaves.n_rows(i)});
    }
  }
  return selection;
}

std::vector<int64_t> rows_read(const HeadView& head, const Selection& selection) {
  std::vector<int64_t> rows;
  for (int64_t row = 0; row < head.n_sinks; ++row) rows.push_back(row);
  for (const RowRange& range : selection.ranges) {
    for (int64_t row = range.begin; row < range.end; ++row) rows.push_back(row);
  }
  for (int64_t row = head.n_tokens() - head.n_window; row < head.n_tokens(); ++row) rows.push_back(row);
  return rows;
}

// A plain dump as context: everything pinned, no clusters.
ContextView dump_context(const ModelInfo& model, TensorView keys, TensorView values) {
  std::vector<HeadView> heads;
  for (int64_t h = 0; h < keys.size(0); ++h) {
    HeadView head;
    head.keys = keys[h];
    head.values = values[h];
    head.n_sinks = static_cast<int32_t>(keys.size(1));
    heads.push_back(head);
  }
  return {model, {heads}};
}

}  // namespace

TEST_SUITE("context_attention") {
  TEST_CASE("merged states equal the state of all rows, in any grouping") {
    const int64_t n_rows = 3, n = 90, dim = 8;
    const Tensor queries = random_tensor({n_rows, dim}, 1), keys = random_tensor({n, dim}, 2),
                 values = random_tensor({n, dim}, 3);
    const auto state_of = [&](int32_t begin, int32_t end) {
      AttentionState state(n_rows, dim);
      const AttendWork work{queries, {{keys, values, {{begin, end}}, {}}}, {}};
      attend_parts({&work, 1}, kScale, {&state, 1});
      return state;
    };
    const std::vector<double> truth = exact_attention(queries, keys, values, kScale, {});
    const double bound = attention_bound(queries, keys, values, kScale);
    AttentionState left = state_of(0, 10);
    left.merge(state_of(10, 11));
    left.merge(state_of(11, 90));
    AttentionState tail = state_of(10, 11);
    tail.merge(state_of(11, 90));
    AttentionState right = state_of(0, 10);
    right.merge(tail);
    CHECK(largest_difference(left.output(), truth) <= bound);
    CHECK(largest_difference(right.output(), truth) <= bound);
  }

  TEST_CASE("merging an empty state changes nothing, and nothing attended gives zero") {
    const Tensor queries = random_tensor({2, 8}, 1), keys = random_tensor({5, 8}, 2);
    AttentionState state(2, 8);
    CHECK(largest_difference(state.output(), std::vector<double>(16, 0.0)) == 0);
    const AttendWork work{queries, {{keys, keys, {{0, 5}}, {}}}, {}};
    attend_parts({&work, 1}, kScale, {&state, 1});
    const Tensor before = state.acc.clone();
    state.merge(AttentionState(2, 8));
    CHECK(same_bytes(before, state.acc));
    AttentionState empty(2, 8);
    empty.merge(state);
    CHECK(same_bytes(before, empty.acc));
    CHECK_THROWS_AS(state.merge(AttentionState(2, 8), 1), Error);
  }

  TEST_CASE("logits far apart and far from zero do not overflow") {
    Tensor query = Tensor::zeros(DType::f32, {1, 8}), keys = Tensor::zeros(DType::f32, {3, 8});
    const Tensor values = random_tensor({3, 8}, 3);
    query.f32()[0] = 100;
    for (int64_t row = 0; row < 3; ++row) keys.f32()[row * 8] = static_cast<float>(row - 1) * 1e4f;
    AttentionState state(1, 8);
    for (int32_t row : {2, 0, 1}) {
      AttentionState one(1, 8);
      const AttendWork work{query, {{keys, values, {{row, row + 1}}, {}}}, {}};
      attend_parts({&work, 1}, 1.0f, {&one, 1});
      state.merge(one);
    }
    CHECK(largest_difference(state.output(), exact_attention(query, keys, values, 1.0, {})) == 0);
  }

  TEST_CASE("the full selection is exact attention, whatever the order of rows") {
    for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
      for (const int64_t dim : {8, 64, 80}) {
        CAPTURE(dim);
        CAPTURE(name_of(dtype));
        const MadeContext made(1, 150, dim, dtype, {{.count = 4}, {.count = 12}});
        const HeadView head = made.layer.head(0);
        for (const int64_t n_rows : {1, 5, 8, 70}) {
          const Tensor queries = random_tensor({n_rows, dim}, 21);
          const Tensor out = attend(head, everything(head), Rest::drop, queries);
          const auto truth = exact_attention(queries, made.keys[0], made.values[0], kScale, {});
          CHECK(largest_difference(out, truth) <= attention_bound(queries, made.keys, made.values, kScale));
        }
      }
    }
  }

  TEST_CASE("a selection is exact attention over pinned and selected rows") {
    const MadeContext made(2, 400, 16, DType::f32, {{.count = 40}});
    const Tensor queries = random_tensor({4, 16}, 21);
    for (int h = 0; h < 2; ++h) {
      const HeadView head = made.layer.head(h);
      const Selection selection = some_leaves(head);
      const std::vector<int64_t> rows = rows_read(head, selection);
      const Tensor keys = rows_of(head.keys, rows), values = rows_of(head.values, rows);
      const auto truth = exact_attention(queries, keys, values, kScale, {});
      CHECK(largest_difference(attend(head, selection, Rest::drop, queries), truth) <=
            attention_bound(queries, keys, values, kScale));
    }
  }

  TEST_CASE("dropped clusters of equal keys and values count exactly, at every level") {
    // Leaves of 1, 2, 3, ... rows; all rows below a coarse cluster are equal, so that its means are exact.
    const int64_t n_coarse = 4, leaves_per_coarse = 3, dim = 8;
    const int32_t n_sinks = 2, n_window = 3;
    const Tensor means = random_tensor({n_coarse, dim}, 41), value_means = random_tensor({n_coarse, dim}, 42);
    Level coarse, leaves;
    std::vector<int64_t> topic_of_row(2, 0);
    std::vector<int64_t> topic_of_leaf;
    for (int64_t i = 0; i < n_coarse; ++i) {
      coarse.first_row.push_back(static_cast<int32_t>(topic_of_row.size()));
      coarse.first_child.push_back(static_cast<int32_t>(topic_of_leaf.size()));
      for (int64_t j = 0; j < leaves_per_coarse; ++j) {
        leaves.first_row.push_back(static_cast<int32_t>(topic_of_row.size()));
        topic_of_leaf.push_back(i);
        topic_of_row.insert(topic_of_row.end(), static_cast<size_t>(1 + i + 2 * j), i);
      }
    }
    coarse.first_row.push_back(static_cast<int32_t>(topic_of_row.size()));
    coarse.first_child.push_back(static_cast<int32_t>(topic_of_leaf.size()));
    leaves.first_row.push_back(static_cast<int32_t>(topic_of_row.size()));
    topic_of_row.insert(topic_of_row.end(), n_window, 1);
    coarse.centroids = means.clone();
    coarse.value_means = value_means.clone();
    leaves.centroids = rows_of(means, topic_of_leaf);
    leaves.value_means = rows_of(value_means, topic_of_leaf);
    const Tensor keys = rows_of(means, topic_of_row), values = rows_of(value_means, topic_of_row);
    const HeadView head{keys, values, {}, n_sinks, n_window, {coarse.view(), leaves.view()}};

    // Coarse 0 and 2 dropped whole, leaves 3 and 10 below the others; dropped in no particular order.
    Selection selection;
    for (const auto& [level, cluster] : std::vector<std::pair<int32_t, int32_t>>{{1, 10}, {0, 2}, {0, 0}, {1, 3}}) {
      selection.dropped.push_back({level, cluster, head.levels[static_cast<size_t>(level)].n_rows(cluster)});
    }
    for (const int32_t leaf : {4, 5, 9, 11}) {
      append_range(selection.ranges,
                   {leaves.first_row[static_cast<size_t>(leaf)], leaves.first_row[static_cast<size_t>(leaf) + 1]});
    }
    const Tensor queries = random_tensor({5, dim}, 43);
    const auto truth = exact_attention(queries, keys, values, kScale, {});
    const double bound = attention_bound(queries, keys, values, kScale);
    CHECK(largest_difference(attend(head, selection, Rest::mean, queries), truth) <= bound);
    CHECK(largest_difference(attend(head, selection, Rest::drop, queries), truth) > 100 * bound);
  }

  TEST_CASE("results do not depend on the number of threads") {
    const ThreadsGuard guard;
    const MadeContext made(2, 9000, 8, DType::f32, {{.count = 30}});  // three chunks of rows
    const ModelInfo model = model_of(8, 2, 8);
    const ContextView context{model, {heads_of(made.layer)}};
    const Policy leaves = [](int, int, const HeadView& head, TensorView, int64_t, LookupScratch&) {
      return some_leaves(head);
    };
    for (const int64_t n : {1, 20}) {  // few query rows, many query rows
      const NewTokens tokens(model, n);
      std::vector<Tensor> outputs;
      for (const int threads : {1, 2, 5}) {
        set_threads(threads);
        ContextAttention attention(context, leaves, Rest::mean);
        outputs.push_back(attention.attend(tokens.input(9000, 0, n)).clone());
      }
      CHECK(same_bytes(outputs[0], outputs[1]));
      CHECK(same_bytes(outputs[0], outputs[2]));
    }
  }

  TEST_CASE("long contexts in several chunks are exact, for few and for many query rows") {
    const Tensor keys = random_tensor({1, 9000, 8}, 51), values = random_tensor({1, 9000, 8}, 52);
    const ContextView context = dump_context(model_of(1, 1, 8), keys, values);
    for (const int64_t n_rows : {1, 65}) {
      const Tensor queries = random_tensor({n_rows, 8}, 53);
      const HeadView& head = context.layers[0][0];
      CHECK(largest_difference(attend(head, everything(head), Rest::drop, queries),
                               exact_attention(queries, keys[0], values[0], kScale, {})) <=
            attention_bound(queries, keys, values, kScale));
    }
  }

  TEST_CASE("queries of the window see the tokens up to themselves") {
    const MadeContext made(1, 120, 16, DType::f32, {{.count = 10}}, 2, 20);
    const HeadView head = made.layer.head(0);
    const Tensor queries = random_tensor({4, 16}, 21);
    const std::vector<int64_t> visible{100, 101, 115, 200};
    const std::vector<int64_t> clipped{100, 101, 115, 120};
    const auto truth = exact_attention(queries, made.keys[0], made.values[0], kScale, clipped);
    CHECK(largest_difference(attend(head, everything(head), Rest::drop, queries, visible), truth) <=
          attention_bound(queries, made.keys, made.values, kScale));

    const std::vector<int64_t> too_early{100, 99, 115, 120};
    CHECK_THROWS_WITH_AS(attend(head, everything(head), Rest::drop, queries, too_early),
                         doctest::Contains("sees only 99 tokens"), Error);

    const ContextView dump = dump_context(model_of(1, 1, 16), made.keys, made.values);
    const std::vector<int64_t> early{1, 3, 50, 120};
    const auto early_truth = exact_attention(queries, made.keys[0], made.values[0], kScale, early);
    const HeadView& plain = dump.layers[0][0];
    CHECK(largest_difference(attend(plain, everything(plain), Rest::drop, queries, early), early_truth) <=
          attention_bound(queries, made.keys, made.values, kScale));
  }

  TEST_CASE("dense attention over an index and a tail is causal attention, for every group size and type") {
    for (const int group : {1, 2, 3, 4, 7, 8}) {
      for (const DType dtype : {DType::f32, DType::bf16}) {
        CAPTURE(group);
        const MadeContext made(2, 60, 16, dtype, {{.count = 6}});
        const ModelInfo model = model_of(2 * group, 2, 16);
        const NewTokens tokens(model, 9);
        const auto truth = truth_of(model, made.keys, made.values, tokens);
        const double bound = bound_of(made.keys, made.values, tokens);

        const ContextView index{model, {heads_of(made.layer)}};
        ContextAttention from_index(index, dense_policy(), Rest::drop);
        CHECK(largest_difference(from_index.attend(tokens.input(60, 0, 9)), truth) <= bound);
        CHECK(from_index.usage().budget() == 1);

        const ContextView dump = dump_context(model, made.keys, made.values);
        ContextAttention from_dump(dump, dense_policy(), Rest::mean);
        CHECK(largest_difference(from_dump.attend(tokens.input(60, 0, 9)), truth) <= bound);
      }
    }
  }

  TEST_CASE("tokens one by one, in chunks and at once agree, over several growths of the tail") {
    const MadeContext made(2, 60, 8, DType::f16, {{.count = 6}});
    const ModelInfo model = model_of(4, 2, 8);
    const int64_t n = 150;
    const NewTokens tokens(model, n);
    const auto truth = truth_of(model, made.keys, made.values, tokens);
    const double bound = bound_of(made.keys, made.values, tokens);
    const ContextView context{model, {heads_of(made.layer)}};
    ContextAttention attention(context, dense_policy(), Rest::drop);
    for (const int64_t step : {int64_t{1}, int64_t{64}, n}) {
      attention.clear_tail();
      Tensor out(DType::f32, tokens.queries.shape());
      for (int64_t begin = 0; begin < n; begin += step) {
        const TensorView part = attention.attend(tokens.input(60, begin, std::min(n, begin + step)));
        std::memcpy(out.at(begin * 4 * 8), part.data(), part.n_bytes());
      }
      CHECK(largest_difference(out, truth) <= bound);
    }
  }

  TEST_CASE("later tokens do not change the output of earlier ones") {
    const MadeContext made(1, 60, 8, DType::f32, {{.count = 6}});
    const ModelInfo model = model_of(2, 1, 8);
    const ContextView context{model, {heads_of(made.layer)}};
    const NewTokens tokens(model, 4);
    NewTokens changed(model, 4);
    for (int64_t i = 3 * 8; i < 4 * 8; ++i) changed.keys.f32()[i] = changed.values.f32()[i] = 50;
    ContextAttention a(context, dense_policy(), Rest::drop), b(context, dense_policy(), Rest::drop);
    const TensorView x = a.attend(tokens.input(60, 0, 4)), y = b.attend(changed.input(60, 0, 4));
    CHECK(same_bytes(x.slice(0, 3), y.slice(0, 3)));
    CHECK_FALSE(same_bytes(x, y));
  }

  TEST_CASE("usage is the bytes of pinned and selected rows, scored centroids and value means") {
    const MadeContext made(1, 100, 8, DType::bf16, {{.count = 3}, {.count = 9}}, 4, 16);
    const HeadView head = made.layer.head(0);
    Selection selection;
    selection.ranges = {{10, 30}};
    selection.n_keys = 20;
    selection.n_scored = 7;
    selection.dropped = {{0, 1, 30}, {1, 2, 20}, {1, 3, 10}};
    const Usage drop = usage_of(head, selection, Rest::drop);
    CHECK(drop.n_lookups == 1);
    CHECK(drop.keys_selected == 20);
    CHECK(drop.keys_clustered == 80);
    CHECK(drop.bytes_dense == 100 * 2 * 8 * 2);
    CHECK(drop.bytes_read == (4 + 16 + 20) * 2 * 8 * 2 + 7 * (8 * 2 + 4));
    CHECK(drop.kept() == doctest::Approx(0.25));
    CHECK(drop.sparsity() == doctest::Approx(0.75));
    CHECK(drop.budget() == doctest::Approx(1420.0 / 3200.0));
    CHECK(usage_of(head, selection, Rest::mean).bytes_read == drop.bytes_read + 3 * 8 * 2);
    const Usage all = usage_of(head, everything(head), Rest::mean);
    CHECK(all.bytes_read == all.bytes_dense);
    Usage sum = drop;
    sum.add(all);
    CHECK(sum.n_lookups == 2);
    CHECK(sum.keys_selected == 100);
    CHECK(sum.bytes_read == drop.bytes_read + all.bytes_read);
  }

  TEST_CASE("usage adds up over layers, heads and calls, and is forgotten with the tail") {
    const MadeContext made(2, 100, 8, DType::f32, {{.count = 9}});
    ModelInfo model = model_of(2, 2, 8);
    model.n_layers = 2;
    const ContextView context{model, {heads_of(made.layer), heads_of(made.layer)}};
    const Policy leaves = [](int, int, const HeadView& head, TensorView, int64_t, LookupScratch&) {
      return some_leaves(head);
    };
    ContextAttention attention(context, leaves, Rest::drop);
    const NewTokens tokens(model, 3);
    for (int64_t t = 0; t < 3; ++t) {
      for (int layer = 0; layer < 2; ++layer) {
        AttentionInput input = tokens.input(100, t, t + 1);
        input.layer = layer;
        (void)attention.attend(input);
      }
    }
    Usage expected;
    for (int h = 0; h < 2; ++h) {
      const HeadView head = made.layer.head(h);
      for (int i = 0; i < 2 * 3; ++i) expected.add(usage_of(head, some_leaves(head), Rest::drop));
    }
    CHECK(attention.usage().n_lookups == 12);
    CHECK(attention.usage().bytes_read == expected.bytes_read);
    CHECK(attention.usage().bytes_dense == expected.bytes_dense);
    CHECK(attention.usage().keys_selected == expected.keys_selected);
    attention.clear_tail();
    CHECK(attention.usage().n_lookups == 0);
    CHECK_NOTHROW(attention.attend(tokens.input(100, 0, 1)));
  }

  TEST_CASE("the policy sees a block's queries of its KV head") {
    const MadeContext made(2, 60, 8, DType::f32, {{.count = 6}});
    const ModelInfo model = model_of(6, 2, 8);
    const ContextView context{model, {heads_of(made.layer)}};
    const NewTokens tokens(model, 2);
    const Policy policy = [&](int, int kv_head, const HeadView& head, TensorView queries, int64_t n_tokens,
                              LookupScratch&) {
      const bool right = n_tokens == 2 && queries.shape() == Shape{6, 8} && [&] {
        for (int64_t row = 0; row < 6; ++row) {
          const TensorView expected = tokens.queries[row / 3][kv_head * 3 + row % 3];
          if (!same_bytes(queries[row], expected)) return false;
        }
        return true;
      }();
      if (!right) fail("wrong queries");
      return everything(head);
    };
    ContextAttention attention(context, policy, Rest::drop);
    CHECK_NOTHROW(attention.attend(tokens.input(60, 0, 2)));
  }

  TEST_CASE("what does not fit is refused") {
    const MadeContext made(2, 60, 8, DType::f32, {{.count = 6}});
    const ModelInfo model = model_of(4, 2, 8);
    const ContextView context{model, {heads_of(made.layer)}};
    const NewTokens tokens(model, 3);
    ContextAttention attention(context, dense_policy(), Rest::drop);
    CHECK_THROWS_WITH_AS(attention.attend(tokens.input(59, 0, 1)), doctest::Contains("position 60, found 59"), Error);
    (void)attention.attend(tokens.input(60, 0, 1));
    CHECK_THROWS_AS(attention.attend(tokens.input(60, 0, 1)), Error);
    CHECK_THROWS_AS(attention.attend(NewTokens(model_of(2, 2, 8), 1).input(61, 0, 1)), Error);
    AttentionInput other_layer = tokens.input(60, 1, 2);
    other_layer.layer = 1;
    CHECK_THROWS_AS(attention.attend(other_layer), Error);
    const ContextView wrong_heads{model_of(4, 1, 8), {heads_of(made.layer)}};
    CHECK_THROWS_AS(ContextAttention(wrong_heads, dense_policy(), Rest::drop), Error);
    const ContextView wrong_dim{model_of(4, 2, 16), {heads_of(made.layer)}};
    CHECK_THROWS_AS(ContextAttention(wrong_dim, dense_policy(), Rest::drop), Error);

    Selection outside;
    outside.ranges = {{50, 55}};
    const Tensor queries = random_tensor({1, 8}, 1);
    CHECK_THROWS_WITH_AS(attend(made.layer.head(0), outside, Rest::drop, queries), doctest::Contains("[50, 55)"),
                         Error);
  }
}

}  // namespace squeeze
