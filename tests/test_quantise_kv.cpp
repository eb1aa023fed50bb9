// Tests of keys and values in 8 bits: what is rounded and what is not, the error, the laws, and attention to them.
#include "lib/index/quantise_kv.hpp"

#include <doctest/doctest.h>

#include <algorithm>

#include "lib/attention/context_attention.hpp"
#include "lib/core/error.hpp"
#include "lib/index/calibrate.hpp"
#include "lib/index/verify.hpp"
#include "tests/made_attention.hpp"

namespace squeeze {
namespace {

constexpr int64_t kTokens = 300, kDim = 16;
constexpr int64_t kRowBytes = 2 * (kDim + 4);  // a key and its value

// The same context twice: as it came, and in 8 bits.
struct Made {
  Tensor keys = topic_keys(2, kTokens, kDim, 12, 1, DType::bf16);
  Tensor values = random_tensor({2, kTokens, kDim}, 2, DType::bf16);
  IndexLayer plain, layer;

  explicit Made(bool quantise_centroids = true) {
    IndexOptions options = options_with({{.count = 5}, {.count = 30}});
    options.quantise_centroids = quantise_centroids;
    options.sketch_group = 4;
    plain = build_layer(keys, values, options);
    options.quantise_kv = true;
    layer = build_layer(keys, values, options);
  }
  bool finds(const std::string& law, bool with_dump = true) const {
    const auto found = with_dump ? verify_layer(heads_of(layer), keys, values) : verify_layer(heads_of(layer));
    return std::any_of(found.begin(), found.end(),
                       [&](const std::string& sentence) { return sentence.find(law) != std::string::npos; });
  }
};

Tensor widened(const ScaledRows& rows) {
  Tensor out(DType::f32, rows.rows.shape());
  rows.widen(0, rows.rows.size(0), out.f32());
  return out;
}

// The rounded rows [n_heads, n_tokens, dim] as float32, in token order.
Tensor in_token_order(const IndexLayer& layer, ScaledRows (HeadView::*rows)() const) {
  Tensor out(DType::f32, layer.keys.shape());
  for (int64_t h = 0; h < layer.keys.size(0); ++h) {
    const HeadView head = layer.head(static_cast<int>(h));
    for (int64_t row = 0; row < head.n_tokens(); ++row) {
      const int64_t token = head.token_of_row[static_cast<size_t>(row)];
      (head.*rows)().widen(row, row + 1, out.f32() + (h * head.n_tokens() + token) * kDim);
    }
  }
  return out;
}

Calibration calibrated(const IndexLayer& layer, const ModelInfo& model) {
  const Tensor queries = random_tensor({model.n_query_heads, 16, kDim}, 7);
  CalibrationOptions options;
  options.softmax_scale = model.softmax_scale;
  return calibrate(
      1,
      [&](int) {
        return CalibrationLayer{heads_of(layer), queries};
      },
      options);
}

double value_of(const std::string& policy) {
  return policy == "top-k" ? 40 : policy == "threshold" ? 0.004 : policy == "budget" ? 0.6 : 0.5;
}

}  // namespace

TEST_SUITE("quantise_kv") {
  TEST_CASE(
      "rows are rounded to a step of their own; clusters, means and sketches are those of the rows as they came") {
    const Made made;
    for (int h = 0; h < 2; ++h) {
      const HeadView rounded = made.layer.head(h), plain = made.plain.head(h);
      CHECK(std::ranges::equal(rounded.token_of_row, plain.token_of_row));
      for (size_t level = 0; level < 2; ++level) {
        CHECK(same_bytes(rounded.levels[level].centroids, plain.levels[level].centroids));
        CHECK(same_bytes(rounded.levels[level].value_means, plain.levels[level].value_means));
        CHECK(std::ranges::equal(rounded.levels[level].first_row, plain.levels[level].first_row));
      }
      CHECK(std::ranges::equal(made.layer.heads[size_t(h)].sketches.codes, made.plain.heads[size_t(h)].sketches.codes));
      const Tensor wide = widened(rounded.key_rows()), truth = convert(plain.keys, DType::f32);
      for (int64_t i = 0; i < truth.n_elements(); ++i) {
        const float step = rounded.key_scales[static_cast<size_t>(i / kDim)];
        CHECK(std::abs(wide.f32()[i] - truth.f32()[i]) <= 0.5001f * step);
      }
    }
  }

  TEST_CASE("the error is the root mean square of what rows lose, and nothing for rows of zeros") {
    const Made made;
    for (int h = 0; h < 2; ++h) {
      const HeadView rounded = made.layer.head(h), plain = made.plain.head(h);
      const auto expect = [&](const ScaledRows& rows, TensorView original, const RoundingError& found) {
        const Tensor wide = widened(rows), truth = convert(original, DType::f32);
        double squares = 0;
        for (int64_t row = 0; row < kTokens; ++row) {
          double off = 0, size = 0;
          for (int64_t i = row * kDim; i < (row + 1) * kDim; ++i) {
            off += std::pow(double{wide.f32()[i]} - double{truth.f32()[i]}, 2);
            size += std::pow(double{truth.f32()[i]}, 2);
          }
          squares += off / size;
        }
        CHECK(found.n_rows == kTokens);
        CHECK(found.root_mean_square() == doctest::Approx(std::sqrt(squares / kTokens)));
        CHECK(found.root_mean_square() < 0.01);
        CHECK(found.root_mean_square() > 0.001);
      };
      const HeadIndex& head = made.layer.heads[static_cast<size_t>(h)];
      expect(rounded.key_rows(), plain.keys, head.key_error);
      expect(rounded.value_rows(), plain.values, head.value_error);
      CHECK(made.plain.heads[static_cast<size_t>(h)].key_error.root_mean_square() == 0);
    }
    const Tensor zeros = Tensor::zeros(DType::f16, {1, 50, kDim});
    IndexOptions options = options_with({{.count = 3}});
    options.quantise_kv = true;
    const IndexLayer layer = build_layer(zeros, zeros, options);
    CHECK(layer.heads[0].key_error.root_mean_square() == 0);
    CHECK(std::ranges::count(layer.key_scales, 0.0f) == 50);
    CHECK(verify_layer(heads_of(layer), zeros, zeros).empty());
  }

  TEST_CASE("the laws hold, and rows, scales, means and sketches that break them are found") {
    for (const bool quantise_centroids : {false, true}) {
      const Made made(quantise_centroids);
      CHECK(verify_layer(heads_of(made.layer), made.keys, made.values).empty());
      CHECK(verify_layer(heads_of(made.layer)).empty());
    }
    Made integer;
    static_cast<int8_t*>(integer.layer.keys.data())[5 * kDim] ^= 1;
    CHECK(integer.finds("keys: row 5 differs from token"));
    Made scale;
    scale.layer.value_scales[7] *= 1.25f;
    CHECK(scale.finds("values: row 7 differs from token"));
    Made mean;
    static_cast<int8_t*>(mean.layer.heads[1].levels[0].centroids.data())[3] ^= 64;
    CHECK(mean.finds("KV head 1: level 0: the centroid of cluster 0 is not"));
    CHECK(mean.finds("KV head 1: level 0: the centroid of cluster 0 is not", false));
    Made sketch;
    sketch.layer.heads[0].sketches.codes[0] ^= 1;
    CHECK(sketch.finds("KV head 0: the sketches are not"));
    Made short_scales;
    HeadView head = short_scales.layer.head(0);
    head.key_scales = head.key_scales.first(10);
    CHECK(verify_head(head).size() == 1);
  }

  TEST_CASE("full budget is dense attention to the rounded rows and a tail in the model's type") {
    const Made made;
    const ModelInfo model = model_of(4, 2, kDim);
    const Tensor keys = in_token_order(made.layer, &HeadView::key_rows);
    const Tensor values = in_token_order(made.layer, &HeadView::value_rows);
    const NewTokens tokens(model, 9);
    const ContextView context{model, {heads_of(made.layer)}, DType::f32};
    const auto truth = truth_of(model, keys, values, tokens);
    const Calibration calibration = calibrated(made.layer, model);
    for (const Policy& policy : {dense_policy(), sparsity_policy(calibration, 0, model.softmax_scale)}) {
      for (const int64_t step : {1, 9}) {  // few and many query rows
        ContextAttention attention(context, policy, Rest::drop);
        for (int64_t begin = 0; begin < 9; begin += step) {
          const TensorView out = attention.attend(tokens.input(kTokens, begin, begin + step));
          const auto first = truth.begin() + begin * 4 * kDim;
          CHECK(largest_difference(out, {first, first + step * 4 * kDim}) <= bound_of(keys, values, tokens));
        }
        CHECK(attention.usage().budget() == 1);
        CHECK(attention.usage().bytes_read == attention.usage().n_lookups * kTokens * kRowBytes);
      }
    }
    const ContextView in_bf16{model, {heads_of(made.layer)}, DType::bf16};
    NewTokens rounded(model, 9);
    for (Tensor* x : {&rounded.keys, &rounded.values}) *x = convert(convert(*x, DType::bf16), DType::f32);
    ContextAttention a(in_bf16, dense_policy(), Rest::drop), b(context, dense_policy(), Rest::drop);
    CHECK(same_bytes(a.attend(tokens.input(kTokens, 0, 9)), b.attend(rounded.input(kTokens, 0, 9))));
  }

  TEST_CASE("every policy attends as to the same rows in float32, and counts the bytes of 8 bits and scales") {
    const Made made;
    const ModelInfo model = model_of(4, 2, kDim);
    const NewTokens tokens(model, 3);
    const Calibration calibration = calibrated(made.layer, model);
    std::vector<HeadView> wide = heads_of(made.layer);
    std::vector<Tensor> rows;
    rows.reserve(4);
    for (HeadView& head : wide) {
      head.keys = rows.emplace_back(widened(head.key_rows()));
      head.values = rows.emplace_back(widened(head.value_rows()));
      head.key_scales = head.value_scales = {};
    }
    const ContextView context{model, {heads_of(made.layer)}, DType::f32}, twin{model, {wide}};
    for (const PolicyEntry& entry : policies()) {
      CAPTURE(entry.name);
      const std::string name = entry.name;
      const Rest rest = entry.drops_clusters() ? Rest::mean : Rest::drop;
      const PolicyInputs inputs{value_of(name), &calibration, model.softmax_scale, rest};
      ContextAttention attention(context, make_policy(name, inputs), rest, 2);
      const TensorView out = attention.attend(tokens.input(kTokens, 0, 3));
      const Usage& usage = attention.usage();
      CHECK(usage.bytes_dense == usage.n_lookups * kTokens * kRowBytes);
      const int64_t n_rows = usage.n_lookups * 12 + usage.keys_selected;
      CHECK(usage.bytes_read >= n_rows * kRowBytes);
      if (name == "window" || name == "oracle") CHECK(usage.bytes_read == n_rows * kRowBytes);
      if (name == "budget") CHECK(usage.budget() == doctest::Approx(0.6).epsilon(0.03));
      if (name == "budget" || name == "quest") continue;  // bytes, and rounded bounds, select other keys
      ContextAttention same(twin, make_policy(name, inputs), rest, 2);
      const TensorView expected = same.attend(tokens.input(kTokens, 0, 3));
      CHECK(usage.keys_selected == same.usage().keys_selected);
      const std::vector<double> truth(expected.f32(), expected.f32() + expected.n_elements());
      CHECK(largest_difference(out, truth) <= 2 * bound_of(rows[0], rows[1], tokens));
    }
  }

  TEST_CASE("rows that are integers without scales are refused") {
    const Made made;
    const ModelInfo model = model_of(2, 2, kDim);
    const NewTokens tokens(model, 1);
    ContextView context{model, {heads_of(made.layer)}, DType::f32};
    context.layers[0][1].value_scales = {};
    ContextAttention attention(context, dense_policy(), Rest::drop);
    CHECK_THROWS_WITH_AS(attention.attend(tokens.input(kTokens, 0, 1)), doctest::Contains("need 300 scales"), Error);
  }
}

}  // namespace squeeze
