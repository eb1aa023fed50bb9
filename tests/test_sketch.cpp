// Tests of sketches and of 8-bit rows: codebooks, nearest entries, what the bits are worth, the mass that misses add.
#include "lib/index/sketch.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

#include "kernels/kernels.hpp"
#include "lib/attention/sketch_tables.hpp"
#include "lib/core/error.hpp"
#include "lib/core/parallel.hpp"
#include "lib/index/sign_sketches.hpp"
#include "lib/index/verify.hpp"
#include "tests/made_sketches.hpp"

namespace squeeze {
namespace {

const int64_t kDims[] = {3, 8, 64, 80, 128};
const int kGroups[] = {2, 4, 8};

// One leaf at the origin, so that keys are their own residuals.
struct Origin {
  Tensor zero;
  std::vector<int32_t> first_row;

  Origin(int64_t n_keys, int64_t dim)
      : zero(Tensor::zeros(DType::f32, {1, dim})), first_row{0, static_cast<int32_t>(n_keys)} {}
  LevelView leaves() const { return {zero, zero, first_row, {}}; }
};

Sketches sketch_residuals(const Tensor& keys, int group_dim) {
  return sketch_keys(keys, Origin(keys.size(0), keys.size(1)).leaves(), group_dim);
}

// Mean squared miss of the keys over their mean squared length.
double relative_miss(const Tensor& keys, int group_dim) {
  const Sketches sketches = sketch_residuals(keys, group_dim);
  double missed = 0, squares = 0;
  for (int64_t key = 0; key < keys.size(0); ++key) {
    const std::vector<double> x = row_of(keys.view(), key), code = code_of(sketches.view(), key, keys.size(1));
    const double scale = sketch_scale(sketches.view(), key);
    for (size_t c = 0; c < x.size(); ++c) missed += (x[c] - scale * code[c]) * (x[c] - scale * code[c]);
    squares += dot_of(x, x);
  }
  return missed / squares;
}

uint64_t fnv1a(TensorView x) {
  uint64_t hash = 0xcbf29ce484222325u;
  const auto* bytes = static_cast<const unsigned char*>(x.data());
  for (size_t i = 0; i < x.n_bytes(); ++i) hash = (hash ^ bytes[i]) * 0x100000001b3u;
  return hash;
}

bool same(const Sketches& a, const Sketches& b) {
  const SketchCodebooks &x = a.codebooks, &y = b.codebooks;
  return x.dims == y.dims && x.entries == y.entries && x.steps == y.steps && x.error == y.error && a.codes == b.codes &&
         a.scales == b.scales;
}

}  // namespace

TEST_SUITE("sketch") {
  TEST_CASE("codebooks: every dimension in one group, 16 entries in 8 bits") {
    for (const int64_t dim : kDims) {
      for (const int group : kGroups) {
        CAPTURE(dim);
        CAPTURE(group);
        const Sketches made = sketch_residuals(random_tensor({300, dim}, 3), group);
        const SketchCodebooks& books = made.codebooks;
        const int64_t n_groups = (dim + group - 1) / group;
        CHECK(made.view().n_groups() == n_groups);
        REQUIRE(std::ssize(books.dims) == n_groups * group);
        std::multiset<int32_t> seen(books.dims.begin(), books.dims.end());
        for (int32_t c = 0; c < dim; ++c) CHECK(seen.count(c) == 1);
        CHECK(std::ssize(seen) - int64_t(seen.count(-1)) == dim);
        for (int64_t place = 0; place < n_groups * group; ++place) {
          int largest = 0;
          for (int64_t b = 0; b < 16; ++b) {
            const int8_t entry = books.entries[size_t((place / group * 16 + b) * group + place % group)];
            largest = std::max(largest, std::abs(int{entry}));
          }
          CHECK(largest == (books.dims[size_t(place)] < 0 ? 0 : 127));
        }
        CHECK(std::ssize(made.codes) == 300 * sketch_code_bytes(group, dim));
      }
    }
  }

  TEST_CASE("a code names the nearest entries, its scale is the best multiple, the error what they miss") {
    for (const int64_t dim : kDims) {
      for (const DType dtype : {DType::f32, DType::bf16}) {
        for (const int bits : {1, 2}) {
          for (const bool quantise : {false, true}) {
            CAPTURE(dim);
            CAPTURE(bits);
            const Tensor keys = topic_keys(1, 90, dim, 6, 3, dtype);
            const IndexLayer layer =
                build_layer(keys, keys, options_of({.levels = {{.count = 7}}, .bits = bits, .quantise = quantise}));
            const HeadView head = layer.head(0);
            const SketchView& sketches = head.sketches;
            const std::vector<int64_t> leaf_of = leaf_of_key(head);
            double missed = 0, squared_scales = 0;
            for (int64_t key = 0; key < head.n_clustered(); ++key) {
              std::vector<double> x = row_of(head.keys, head.n_sinks + key);
              const std::vector<double> centroid =
                  row_of(head.levels.back().centroid_rows(), leaf_of[static_cast<size_t>(key)]);
              for (size_t c = 0; c < x.size(); ++c) {
                x[c] = double{static_cast<float>(x[c]) - static_cast<float>(centroid[c])};
              }
              const double length = std::sqrt(dot_of(x, x)), scale = sketch_scale(sketches, key);
              const std::vector<double> code = code_of(sketches, key, dim);
              const int n = sketches.group_dim;
              for (int64_t group = 0; group < sketches.n_groups() && length > 0; ++group) {
                double own = 0, best = INFINITY;
                for (int b = 0; b < 16; ++b) {
                  double distance = 0, to_code = 0;
                  for (int i = 0; i < n; ++i) {
                    const auto place = size_t(group * n + i);
                    if (sketches.dims[place] < 0) continue;
                    const auto c = size_t(sketches.dims[place]);
                    const double off = x[c] / length - double{sketches.steps[place]} *
                                                           sketches.entries[size_t((group * 16 + b) * n + i)];
                    distance += off * off;
                    to_code += (x[c] / length - code[c]) * (x[c] / length - code[c]);
                  }
                  best = std::min(best, distance);
                  own = to_code;
                }
                CHECK(own <= best + 1e-6);  // sums of float32, of squares of at most about 1
              }
              const double product = dot_of(x, code), squares = dot_of(code, code);
              const double expected = product > 0 ? product / squares : 0;
              CHECK(std::abs(scale - expected) <= 0x1p-11 * expected + 0x1p-24);
              for (size_t c = 0; c < x.size(); ++c) missed += (x[c] - scale * code[c]) * (x[c] - scale * code[c]);
              squared_scales += scale * scale;
            }
            const double error = squared_scales > 0 ? missed / squared_scales / double(dim) : 0;
            CHECK(double{sketches.error} == doctest::Approx(error).epsilon(1e-4));
          }
        }
      }
    }
  }

  TEST_CASE("half a bit, one and two of a Gaussian: between the bound of all codes and a scalar code's miss") {
    const Tensor keys = random_tensor({6000, 64}, 8);
    // Distortion-rate: 2^(-2 bits). One and two bits per number, alone: 0.3634 and 0.1175 (Max, 1960); half a bit: one
    // bit for every other one, (1 + 0.3634) / 2.
    const double half = relative_miss(keys, 8), one = relative_miss(keys, 4), two = relative_miss(keys, 2);
    CHECK(half >= 0.5);
    CHECK(half <= 0.68);
    CHECK(one >= 0.25);
    CHECK(one <= 0.3634);
    CHECK(two >= 0.0625);
    CHECK(two <= 0.1175);
  }

  TEST_CASE("codebooks learn what dimensions differ in") {
    Tensor keys = random_tensor({6000, 64}, 8);
    const double even = relative_miss(keys, 4);
    for (int64_t i = 0; i < keys.n_elements(); ++i) keys.f32()[i] *= i % 4 == 0 ? 1.0f : 0.2f;
    CHECK(relative_miss(keys, 4) <= 0.6 * even);
  }

  TEST_CASE("what the misses add to a mean of exponentials") {
    const int64_t dim = 64, n_keys = 6000;
    const Tensor keys = random_tensor({n_keys, dim}, 8), queries = random_tensor({10, dim}, 9);
    for (const int group : kGroups) {
      const Sketches sketches = sketch_residuals(keys, group);
      double squared_scale = 0;
      for (int64_t key = 0; key < n_keys; ++key) {
        squared_scale += std::pow(sketch_scale(sketches.view(), key), 2) / double(n_keys);
      }
      for (int64_t q = 0; q < 10; ++q) {
        const std::vector<double> query = row_of(queries.view(), q);
        const double scale = 1 / std::sqrt(dot_of(query, query)) / std::sqrt(squared_scale) * 8;  // logits of about 1
        double exact = 0, estimated = 0;
        for (int64_t key = 0; key < n_keys; ++key) {
          exact += std::exp(scale * dot_of(query, row_of(keys.view(), key)));
          estimated +=
              std::exp(scale * sketch_scale(sketches.view(), key) * dot_of(query, code_of(sketches.view(), key, dim)));
        }
        const double miss =
            0.5 * scale * scale * dot_of(query, query) * squared_scale * double{sketches.codebooks.error};
        // Of 6000 exponentials of deviation 1.3 the mean is off by 0.02 of itself.
        CHECK(std::abs(std::log(exact / estimated) - miss) <= 0.1);
        CHECK(miss >= (group == 2 ? 0.02 : 0.08));
      }
    }
  }

  TEST_CASE("rounded tables: an estimate is off by half a step per group, a fraction of its own miss") {
    const int64_t n_keys = 400, n_queries = 9;
    const float softmax_scale = 0.125f;
    for (const int64_t dim : {1, 8, 33, 64, 128}) {
      for (const int group : kGroups) {
        CAPTURE(dim);
        CAPTURE(group);
        const Tensor keys = random_tensor({n_keys, dim}, 5);
        Tensor queries = random_tensor({n_queries, dim}, 6);
        std::fill_n(queries.f32(), dim, 0.0f);
        queries.f32()[dim] = 1e6f;
        const Sketches sketches = sketch_residuals(keys, group);
        const SketchView view = sketches.view();
        const SketchTables made = sketch_tables(queries, view, softmax_scale);
        REQUIRE(std::ssize(made.entries) == n_queries * sketch_table_bytes(view.code_bytes()));
        std::vector<float> found(static_cast<size_t>(n_queries * n_keys), 0.0f);
        const RowRange all{0, static_cast<int32_t>(n_keys)};
        kernels().sketch_scores({made.entries.data(), n_queries, made.scales.data(), view.codes, view.scales, 0, &all,
                                 1, view.code_bytes(), found.data(), n_keys});
        for (int64_t q = 0; q < n_queries; ++q) {
          const std::vector<double> query = row_of(queries.view(), q);
          const double step = table_step(view, query);
          double added = 0, missed = 0;
          for (int64_t key = 0; key < n_keys; ++key) {
            const std::vector<double> code = code_of(view, key, dim);
            const double scale = double{softmax_scale} * sketch_scale(view, key);
            const double estimate = scale * dot_of(query, code);
            const double error = double{found[static_cast<size_t>(q * n_keys + key)]} - estimate;
            // Half a step per group with the roundings of sums and quotients of 31; four roundings of the result.
            REQUIRE(std::abs(error) <=
                    scale * double(view.n_groups()) * step * (0.5 + 31 * 12 * 0x1p-24) + 0x1p-22 * std::abs(estimate));
            const double own = estimate - double{softmax_scale} * dot_of(query, row_of(keys.view(), key));
            added += error * error;
            missed += own * own;
          }
          if (dim >= 64 && q > 1) CHECK(added <= (group == 2 ? 0.04 : 0.02) * missed);
        }
      }
    }
  }

  TEST_CASE("queries that overflow are refused") {
    const Sketches sketches = sketch_residuals(random_tensor({40, 8}, 5), 8);
    for (const float bad : {NAN, INFINITY}) {
      Tensor query = Tensor::zeros(DType::f32, {1, 8});
      query.f32()[3] = bad;
      CHECK_THROWS_WITH_AS(sketch_tables(query, sketches.view(), 1.0f), doctest::Contains("not finite"), Error);
    }
    Tensor query(DType::f32, {1, 8});
    const SignSketches signs = sign_sketches(1, 8);
    for (int64_t c = 0; c < 8; ++c) query.f32()[c] = signs.rotation.f32()[c] > 0 ? 3e38f : -3e38f;
    CHECK_THROWS_WITH_AS(sketch_tables(query, signs.view(nullptr, nullptr), 1.0f), doctest::Contains("not finite"),
                         Error);
  }

  TEST_CASE("a key at its centroid has scale 0, equal keys equal codes; few keys and none that differ") {
    for (const int group : kGroups) {
      Tensor keys = random_tensor({3, 12}, 9);
      std::fill_n(keys.f32() + 12, 12, 0.0f);
      const Sketches sketches = sketch_residuals(keys, group);
      CHECK(sketches.scales[1] == 0);
      // Sixteen entries are enough for two residuals.
      CHECK(relative_miss(keys, group) <= 1e-3);
      for (const auto& [n_keys, value] : {std::pair{1, 1.0f}, {1, 0.0f}, {50, 0.0f}, {50, -2.0f}}) {
        Tensor equal(DType::f32, {n_keys, 12});
        std::fill_n(equal.f32(), equal.n_elements(), value);
        const Sketches made = sketch_residuals(equal, group);
        CHECK(std::isfinite(made.codebooks.error));
        for (const uint16_t scale : made.scales) CHECK(scale == made.scales[0]);
        CHECK((made.scales[0] == 0) == (value == 0));
        if (value != 0) CHECK(relative_miss(equal, group) <= 1e-4);
      }
    }
    // Unused bits stay zero: the same bytes on every machine.
    const Sketches odd = sketch_residuals(random_tensor({40, 12}, 9), 4);
    for (size_t last = 1; last < odd.codes.size(); last += 2) CHECK((odd.codes[last] & 0xf0) == 0);
  }

  TEST_CASE("residuals of any size give numbers") {
    for (const float magnitude : {1e-45f, 1e-41f, 1e-30f, 1e30f, 3e38f}) {
      for (const int group : kGroups) {
        Tensor keys = random_tensor({60, 12}, 9);
        for (int64_t i = 0; i < keys.n_elements(); ++i) {
          keys.f32()[i] = std::clamp(keys.f32()[i] / 4, -1.0f, 1.0f) * magnitude;
        }
        const Sketches sketches = sketch_residuals(keys, group);
        CHECK(sketches.codebooks.error >= 0);
        CHECK(std::isfinite(sketches.codebooks.error));
        for (const float step : sketches.codebooks.steps) CHECK(std::isfinite(step));
        for (const uint16_t scale : sketches.scales) CHECK(scale <= 0x7bff);
      }
    }
  }

  TEST_CASE("residuals beyond f16 give the largest finite scale") {
    Tensor keys = random_tensor({1, 8}, 9);
    for (int64_t c = 0; c < 8; ++c) keys.f32()[c] *= 1e8f;
    const Sketches sketches = sketch_residuals(keys, 4);
    CHECK(sketches.scales[0] == 0x7bff);
    CHECK(std::isfinite(sketches.codebooks.error));
  }

  TEST_CASE("the same for any number of threads; what is stored gives them again") {
    const Tensor keys = topic_keys(1, 3000, 24, 40, 3, DType::bf16);
    const int before = n_threads();
    for (const int group : kGroups) {
      std::vector<int32_t> first_row{0};
      while (first_row.back() < 3000) first_row.push_back(std::min(3000, first_row.back() + 11));
      const Tensor centroids = random_tensor({std::ssize(first_row) - 1, 24}, 4);
      const LevelView leaves{centroids, centroids, first_row, {}};
      set_threads(1);
      const Sketches one = sketch_keys(keys[0], leaves, group);
      set_threads(3);
      CHECK(same(sketch_keys(keys[0], leaves, group), one));
      CHECK(same(sketch_keys(keys[0], leaves, one.codebooks), one));
      set_threads(before);
    }
  }

  TEST_CASE("verify finds a flipped bit of a sketch, a changed scale, entry, step and error") {
    for (const int bits : {1, 2}) {
      const Tensor keys = topic_keys(2, 100, 8, 6, 3, DType::bf16);
      IndexLayer layer = build_layer(keys, keys, options_of({.levels = {{.count = 9}}, .bits = bits}));
      CHECK(verify_layer(heads_of(layer), keys, keys).empty());
      const auto check_found = [&](auto& value, auto other) {
        const auto before = value;
        value = static_cast<std::remove_reference_t<decltype(value)>>(other);
        CHECK(verify_layer(heads_of(layer)) ==
              std::vector<std::string>{"KV head 1: the sketches are not those of the keys"});
        value = before;
      };
      Sketches& own = layer.heads[1].sketches;
      check_found(own.codes[41], own.codes[41] ^ 4);
      check_found(own.scales[87], own.scales[87] ^ 1);
      check_found(own.codebooks.entries[5], own.codebooks.entries[5] ^ 64);
      check_found(own.codebooks.steps[2], own.codebooks.steps[2] * 3);
      check_found(own.codebooks.error, own.codebooks.error * 1.01f);
      CHECK(verify_layer(heads_of(layer)).empty());
    }
  }

  TEST_CASE("the rotation of older files is orthogonal, the same for a seed, another for another") {
    for (const int64_t dim : {1, 3, 8, 64, 80, 128}) {
      CAPTURE(dim);
      const Tensor rotation = random_rotation(dim, 7);
      for (int64_t i = 0; i < dim; ++i) {
        for (int64_t j = 0; j <= i; ++j) {
          // Each factor is off by 2^-24 of itself; the rows are unit vectors (Cauchy-Schwarz).
          CHECK(std::abs(dot_of(row_of(rotation, i), row_of(rotation, j)) - (i == j ? 1 : 0)) <= 0x1p-22);
        }
      }
      const Tensor again = random_rotation(dim, 7);
      CHECK(std::memcmp(rotation.data(), again.data(), rotation.n_bytes()) == 0);
      const Tensor other = random_rotation(dim, 8);
      if (dim > 3) CHECK(std::memcmp(rotation.data(), other.data(), rotation.n_bytes()) != 0);
    }
  }

  TEST_CASE("the rotation of older files is what it always was: they hold its seed only") {
    CHECK(fnv1a(random_rotation(3, kRotationSeed)) == 0x253eb728d12874c6u);
    CHECK(fnv1a(random_rotation(64, kRotationSeed)) == 0xc79b9c6f47da1ce5u);
    CHECK(fnv1a(random_rotation(128, kRotationSeed)) == 0x20c8b653eb70b0d4u);
  }

  TEST_CASE("8-bit rows are off by at most half their scale") {
    for (const int64_t dim : {1, 7, 64}) {
      for (const float magnitude : {1.0f, 1e30f, 1e-30f, 1e-38f, 1e-41f}) {
        CAPTURE(magnitude);
        Tensor rows = random_tensor({5, dim}, 2);
        for (int64_t i = 0; i < rows.n_elements(); ++i) rows.f32()[i] *= magnitude;
        std::fill_n(rows.f32() + 2 * dim, dim, 0.0f);
        rows.f32()[0] = 0;
        const QuantisedRows found = quantise(rows);
        const ScaledRows scaled{found.rows, found.scales};
        CHECK(found.rows.dtype() == DType::i8);
        CHECK(found.scales.size() == 5);
        CHECK(found.scales[2] == 0);
        for (int64_t i = 0; i < 5; ++i) {
          const std::vector<double> row = row_of(rows.view(), i), back = row_of(scaled, i);
          const double scale = double{found.scales[static_cast<size_t>(i)]};
          double largest = 0, largest_back = 0;
          for (size_t c = 0; c < row.size(); ++c) {
            // The quotient by the rounded scale has three roundings; subnormal numbers have their own.
            CHECK(std::abs(row[c] - back[c]) <= scale * (0.5 + 127 * 3 * 0x1p-24) + 127 * 0x1p-149);
            largest = std::max(largest, std::abs(row[c]));
            largest_back = std::max(largest_back, std::abs(back[c]));
          }
          CHECK(std::abs(largest - largest_back) <= largest * 3 * 0x1p-24 + 127 * 0x1p-149);
        }
      }
    }
  }

  TEST_CASE("8-bit rows: bytes of a row, and any range widened") {
    const QuantisedRows made = quantise(random_tensor({6, 10}, 2));
    const ScaledRows rows{made.rows, made.scales};
    CHECK(rows.row_bytes() == 10 + 4);
    const Tensor plain = random_tensor({6, 10}, 2, DType::bf16);
    CHECK(ScaledRows{plain, {}}.row_bytes() == 20);
    std::vector<float> all(60), part(20);
    for (const ScaledRows& x : {rows, ScaledRows{plain, {}}}) {
      x.widen(0, 6, all.data());
      x.widen(3, 5, part.data());
      CHECK(std::equal(part.begin(), part.end(), all.begin() + 30));
    }
  }
}

}  // namespace squeeze
