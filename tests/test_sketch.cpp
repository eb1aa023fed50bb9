// Tests of sketches and of 8-bit rows: the rotation, exactness along the residual, no bias, what the bits are worth.
#include "lib/index/sketch.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>

#include "kernels/kernels.hpp"
#include "lib/core/error.hpp"
#include "lib/index/verify.hpp"
#include "tests/made_sketches.hpp"

namespace squeeze {
namespace {

const int64_t kDims[] = {8, 64, 80, 128};

// One leaf at the origin, so that keys are their own residuals.
struct Origin {
  Tensor zero;
  std::vector<int32_t> first_row;

  Origin(int64_t n_keys, int64_t dim)
      : zero(Tensor::zeros(DType::f32, {1, dim})), first_row{0, static_cast<int32_t>(n_keys)} {}
  LevelView leaves() const { return {zero, zero, first_row, {}}; }
};

SketchView view_of(const Sketches& sketches, int bits, TensorView rotation) {
  return {bits, sketches.codes.data(), sketches.scales.data(), rotation};
}

// A sketch without the query: scale * R^T code, so that the estimate of q·x is its product with q.
std::vector<double> decoded(const SketchView& sketches, int64_t key) {
  const int64_t dim = sketches.rotation.size(0);
  const std::vector<double> code = code_of(sketches, key, dim);
  std::vector<double> out(code.size(), 0.0);
  for (size_t i = 0; i < code.size(); ++i) {
    for (size_t c = 0; c < code.size(); ++c) {
      out[c] += sketch_scale(sketches, key) * double{sketches.rotation.f32()[i * code.size() + c]} * code[i];
    }
  }
  return out;
}

uint64_t fnv1a(TensorView x) {
  uint64_t hash = 0xcbf29ce484222325u;
  const auto* bytes = static_cast<const unsigned char*>(x.data());
  for (size_t i = 0; i < x.n_bytes(); ++i) hash = (hash ^ bytes[i]) * 0x100000001b3u;
  return hash;
}

}  // namespace

TEST_SUITE("sketch") {
  TEST_CASE("the rotation is orthogonal, the same for a seed, another for another") {
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

  TEST_CASE("the rotation of index files is what it always was: they hold its seed only") {
    CHECK(fnv1a(random_rotation(3, kRotationSeed)) == 0x253eb728d12874c6u);
    CHECK(fnv1a(random_rotation(64, kRotationSeed)) == 0xc79b9c6f47da1ce5u);
    CHECK(fnv1a(random_rotation(128, kRotationSeed)) == 0x20c8b653eb70b0d4u);
  }

  TEST_CASE("the estimate is exact along the residual itself") {
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
            const std::vector<int64_t> leaf_of = leaf_of_key(head);
            for (int64_t key = 0; key < head.n_clustered(); ++key) {
              std::vector<double> residual = row_of(head.keys, head.n_sinks + key);
              const std::vector<double> centroid =
                  row_of(head.levels.back().centroid_rows(), leaf_of[static_cast<size_t>(key)]);
              for (size_t c = 0; c < residual.size(); ++c) {
                residual[c] = double{static_cast<float>(residual[c]) - static_cast<float>(centroid[c])};
              }
              const std::vector<double> code = code_of(head.sketches, key, dim);
              const double squares = dot_of(residual, residual), scale = sketch_scale(head.sketches, key);
              double levels = 0;
              for (const double level : code) levels += std::abs(level);
              // The scale is rounded to f16, and was computed with a rotated residual whose elements are float32 sums
              // of dim products: each off by dim * 2^-24 |x|.
              const double bound =
                  0x1p-11 * squares + double(dim) * 0x1p-23 * std::sqrt(squares) * levels * scale + 0x1p-24;
              CHECK(std::abs(scale * dot_of(rotated(layer.rotation, residual), code) - squares) <= bound);
            }
          }
        }
      }
    }
  }

  TEST_CASE("over rotations the estimate has no bias, for any query") {
    for (const int64_t dim : {64, 80, 128}) {
      for (const int bits : {1, 2}) {
        const int n_rotations = dim == 128 ? 60 : 200, n_queries = 20;
        const Tensor keys = random_tensor({1, dim}, 5), queries = random_tensor({n_queries, dim}, 6);
        const Origin origin(1, dim);
        const std::vector<double> x = row_of(keys, 0);
        const double squares = dot_of(x, x);
        std::vector<double> mean(static_cast<size_t>(dim), 0.0);
        double noise = 0;
        for (int seed = 0; seed < n_rotations; ++seed) {
          const Tensor rotation = random_rotation(dim, static_cast<uint64_t>(seed));
          const Sketches sketches = sketch_keys(keys, origin.leaves(), bits, rotation);
          const std::vector<double> estimate = decoded(view_of(sketches, bits, rotation), 0);
          for (size_t c = 0; c < mean.size(); ++c) mean[c] += estimate[c] / n_rotations;
          noise += (dot_of(estimate, estimate) - squares) / n_rotations;
        }
        // The estimate of q·x is q·x plus |part of q across x| times a random direction's component of what the code
        // has across x: a variance of `noise` / (dim - 1) per unit of q. Five deviations of the mean.
        for (int64_t q = 0; q < n_queries; ++q) {
          const std::vector<double> query = row_of(queries, q);
          const double along = dot_of(query, x);
          const double across = dot_of(query, query) - along * along / squares;
          const double deviation = std::sqrt(across * noise / double(dim - 1) / n_rotations);
          CHECK(std::abs(dot_of(mean, query) - along) <= 5 * deviation + 0x1p-11 * std::abs(along));
        }
      }
    }
  }

  TEST_CASE("two bits are better than one, and both as good as theory says") {
    const int64_t dim = 128, n_keys = 200;
    const Tensor keys = random_tensor({n_keys, dim}, 8), rotation = random_rotation(dim, 1);
    const Origin origin(n_keys, dim);
    double error[2] = {0, 0};  // |R^T code * scale - x|^2 / |x|^2, averaged
    for (const int bits : {1, 2}) {
      const Sketches sketches = sketch_keys(keys, origin.leaves(), bits, rotation);
      for (int64_t key = 0; key < n_keys; ++key) {
        const std::vector<double> x = row_of(keys, key);
        const std::vector<double> estimate = decoded(view_of(sketches, bits, rotation), key);
        error[bits - 1] += (dot_of(estimate, estimate) / dot_of(x, x) - 1) / double(n_keys);
      }
    }
    // A Gaussian x: 1 / cos^2 - 1 for the angle between x and its code; cos^2 is 2 / pi for one bit and, for two with
    // levels 1 to 3, at most 0.8825 (Max, 1960). A key's value deviates by about 2 / sqrt(dim), the mean by much less.
    CHECK(error[0] == doctest::Approx(std::acos(-1.0) / 2 - 1).epsilon(0.05));
    CHECK(error[1] >= 0.9 * (1 / 0.8825 - 1));
    CHECK(error[1] <= 1.2 * (1 / 0.8825 - 1));
  }

  TEST_CASE("rounded tables: an estimate is off by half a step per four dimensions, a fraction of its own noise") {
    const int64_t n_keys = 40, n_queries = 9;
    const float softmax_scale = 0.125f;
    for (const int64_t dim : {1, 8, 33, 64, 128}) {
      for (const int bits : {1, 2}) {
        CAPTURE(dim);
        CAPTURE(bits);
        const Tensor keys = random_tensor({n_keys, dim}, 5), rotation = random_rotation(dim, 1);
        Tensor queries = random_tensor({n_queries, dim}, 6);
        std::fill_n(queries.f32(), dim, 0.0f);
        queries.f32()[dim] = 1e6f;
        const Sketches sketches = sketch_keys(keys, Origin(n_keys, dim).leaves(), bits, rotation);
        const SketchView view = view_of(sketches, bits, rotation);
        const SketchTables made = sketch_tables(queries, view, softmax_scale);
        REQUIRE(std::ssize(made.entries) == n_queries * sketch_table_bytes(dim));
        std::vector<float> found(static_cast<size_t>(n_queries * n_keys), 0.0f);
        const RowRange all{0, static_cast<int32_t>(n_keys)};
        kernels().sketch_scores({made.entries.data(), n_queries, made.scales.data(), view.codes, view.scales, 0, &all,
                                 1, dim, bits, found.data(), n_keys});
        for (int64_t q = 0; q < n_queries; ++q) {
          const std::vector<double> query = row_of(queries.view(), q), turned = rotated(rotation, query);
          const double step = table_step(turned);
          double added = 0, noise = 0;
          for (int64_t key = 0; key < n_keys; ++key) {
            const std::vector<double> code = code_of(view, key, dim);
            const double scale = double{softmax_scale} * sketch_scale(view, key);
            const double estimate = scale * dot_of(turned, code);
            const double error = double{found[static_cast<size_t>(q * n_keys + key)]} - estimate;
            double levels = 0;
            for (const double level : code) levels += std::abs(level);
            // Half a step per group, a plane of halves and one of units where there are two, with the roundings of
            // sums and quotients of 31; the rotation's float32 sums of dim products, of |q| together; four roundings of
            // the result.
            const double groups = std::ceil(double(dim) / 4) * (bits == 1 ? 1 : 1.5);
            const double size = std::sqrt(dot_of(query, query));
            REQUIRE(std::abs(error) <=
                    scale * (groups * step * (0.5 + 31 * 6 * 0x1p-24) + levels * double(dim) * 0x1p-24 * size) +
                        0x1p-22 * std::abs(estimate));
            const double own = estimate - double{softmax_scale} * dot_of(query, row_of(keys.view(), key));
            added += error * error;
            noise += own * own;
          }
          // Per squared scale of a key the rounding adds step^2 / 12 per group and plane, 2.2e-3 |q|^2 at most if no
          // group of R q sums up to more than 10 |q| / sqrt(dim); the code's own noise is 0.1 |q|^2 and more.
          if (dim >= 64 && q > 0) CHECK(added <= (bits == 1 ? 0.005 : 0.02) * noise);
        }
      }
    }
  }

  TEST_CASE("queries that overflow when they are rotated are refused") {
    Tensor query = Tensor::zeros(DType::f32, {1, 8});
    const Tensor rotation = random_rotation(8, 1);
    for (int64_t c = 0; c < 8; ++c) query.f32()[c] = rotation.f32()[c] > 0 ? 3e38f : -3e38f;
    CHECK_THROWS_WITH_AS(sketch_tables(query, {1, nullptr, nullptr, rotation}, 1.0f), doctest::Contains("not finite"),
                         Error);
  }

  TEST_CASE("a key at its centroid has scale 0, and disturbs no other") {
    for (const int bits : {1, 2}) {
      Tensor keys = random_tensor({3, 12}, 9);
      std::fill_n(keys.f32() + 12, 12, 0.0f);
      const Tensor rotation = random_rotation(12, 1);
      const Origin origin(3, 12), alone(1, 12);
      const Sketches sketches = sketch_keys(keys, origin.leaves(), bits, rotation);
      CHECK(sketches.scales[1] == 0);
      const Sketches last = sketch_keys(keys.view().slice(2, 3), alone.leaves(), bits, rotation);
      CHECK(last.scales[0] == sketches.scales[2]);
      const auto n = static_cast<size_t>(sketch_code_bytes(bits, 12));
      CHECK(std::memcmp(last.codes.data(), sketches.codes.data() + 2 * n, n) == 0);
      // Unused bits stay zero: the same bytes on every machine.
      for (size_t plane = 1; plane < sketches.codes.size(); plane += 2) CHECK((sketches.codes[plane] & 0xf0) == 0);
    }
  }

  TEST_CASE("residuals beyond f16 give the largest finite scale") {
    Tensor keys = random_tensor({1, 8}, 9);
    for (int64_t c = 0; c < 8; ++c) keys.f32()[c] *= 1e8f;
    const Sketches sketches = sketch_keys(keys, Origin(1, 8).leaves(), 1, random_rotation(8, 1));
    CHECK(sketches.scales[0] == 0x7bff);
  }

  TEST_CASE("verify finds a flipped bit of a sketch, and a changed scale") {
    for (const int bits : {1, 2}) {
      const Tensor keys = topic_keys(2, 100, 8, 6, 3, DType::bf16);
      IndexLayer layer = build_layer(keys, keys, options_of({.levels = {{.count = 9}}, .bits = bits}));
      CHECK(verify_layer(heads_of(layer), keys, keys).empty());
      const auto is_found = [&] {
        const std::vector<std::string> found = verify_layer(heads_of(layer));
        return found == std::vector<std::string>{"KV head 1: the sketches are not those of the keys"};
      };
      layer.heads[1].sketches.codes[41] ^= 4;
      CHECK(is_found());
      layer.heads[1].sketches.codes[41] ^= 4;
      layer.heads[1].sketches.scales[87] ^= 1;
      CHECK(is_found());
      layer.heads[1].sketches.scales[87] ^= 1;
      CHECK(verify_layer(heads_of(layer)).empty());
    }
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
