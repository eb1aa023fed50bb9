// Linear layers: the kernel for few rows and Matmul, against double precision, and exactly for whole numbers.
#include "kernels/cuda/matmul.hpp"

#include "kernels/cuda/matvec.hpp"
#include "tests/cuda/cases.hpp"

namespace squeeze::cuda_tests {
namespace {

using cuda::DeviceArray;

struct Setting {
  int64_t n_rows = 1, out_features = 100, in_features = 64;
  bool bias = false;
  bool whole = false;  // whole numbers, whose sums are exact
  int shift = 0;       // elements by which x and weights miss their alignment
};

enum class By { matvec, matmul };

class Call {
 public:
  Call(const Setting& setting, By by) : s_(setting), by_(by), random_(7) {
    x_ = made(s_.n_rows * s_.in_features);
    weights_ = made(s_.out_features * s_.in_features);
    if (s_.bias) bias_ = random_.normals(size_t(s_.out_features));
    if (s_.whole) {
      for (float& b : bias_) b = std::round(b);
    }
  }

  void run() const {
    const std::vector<float> out = product(0, s_.n_rows);
    check(out);
    expect(product(0, s_.n_rows) == out, "a second call gives other bits");
    if (by_ == By::matmul) return;
    for (int64_t row = 0; row < s_.n_rows; ++row) {
      const auto own = out.begin() + row * s_.out_features;
      expect(product(row, 1) == std::vector<float>(own, own + s_.out_features), "a row alone gives other bits");
    }
  }

 private:
  std::vector<uint16_t> made(int64_t n) {
    std::vector<float> x = random_.normals(size_t(n));
    if (s_.whole) {
      for (float& element : x) element = float(random_.below(17) - 8);
    }
    return rounded(x, DType::bf16);
  }
  std::vector<uint16_t> shifted(std::span<const uint16_t> x) const {
    std::vector<uint16_t> out(size_t(s_.shift), 0x7fff);  // NaN
    out.insert(out.end(), x.begin(), x.end());
    return out;
  }

  std::vector<float> product(int64_t first, int64_t n) const {
    const DeviceArray<uint16_t> x(
        shifted(std::span(x_).subspan(size_t(first * s_.in_features), size_t(n * s_.in_features)))),
        weights(shifted(weights_));
    const DeviceArray<float> bias(bias_);
    const auto size = static_cast<size_t>(n * s_.out_features);
    const DeviceArray<float> out(std::vector<float>(size + 1, NAN));
    const cuda::LinearArgs args{.x = x.data() + s_.shift,
                                .weights = weights.data() + s_.shift,
                                .bias = s_.bias ? bias.data() : nullptr,
                                .n_rows = n,
                                .out_features = s_.out_features,
                                .in_features = s_.in_features,
                                .out = out.data()};
    if (by_ == By::matvec) {
      cuda::matvec(args, nullptr);
    } else {
      cuda::Matmul()(args, nullptr);
      cuda::synchronize(nullptr);  // before its workspace goes
    }
    std::vector<float> found = out.host();
    expect(std::isnan(found.back()), "written behind the end");
    found.pop_back();
    return found;
  }

  // in_features additions, each of which may cut off a unit in the last place of at most the sum of the magnitudes.
  void check(const std::vector<float>& out) const {
    const double unit = s_.whole ? 0 : double(s_.in_features + 2) / (1 << 23);
    for (int64_t row = 0; row < s_.n_rows; ++row) {
      for (int64_t o = 0; o < s_.out_features; ++o) {
        double sum = s_.bias ? double{bias_[size_t(o)]} : 0, magnitude = std::abs(sum);
        for (int64_t c = 0; c < s_.in_features; ++c) {
          const double term = double{bf16_to_f32(x_[size_t(row * s_.in_features + c)])} *
                              double{bf16_to_f32(weights_[size_t(o * s_.in_features + c)])};
          sum += term;
          magnitude += std::abs(term);
        }
        expect_close("output", {&out[size_t(row * s_.out_features + o)], 1}, {&sum, 1}, unit * magnitude);
      }
    }
  }

  Setting s_;
  By by_;
  Random random_;
  std::vector<uint16_t> x_, weights_;
  std::vector<float> bias_;
};

void check_setting(const Setting& setting, By by) { Call(setting, by).run(); }

void check_matvec(const Setting& setting) { check_setting(setting, By::matvec); }

void check_sizes(bool bias) {
  for (const int64_t out_features : {1, 15, 16, 17, 40}) {
    for (const int64_t in_features : {1, 7, 8, 33, 64, 120, 576}) {
      check_matvec(
          {.n_rows = 3, .out_features = out_features, .in_features = in_features, .bias = bias, .whole = true});
    }
  }
}

void check_row_counts() {
  for (int64_t n_rows = 0; n_rows <= cuda::kMatvecRows; ++n_rows) {
    check_matvec({.n_rows = n_rows, .out_features = 50, .in_features = 200, .bias = true});
  }
}

void check_matmul() {
  for (const bool bias : {false, true}) {
    for (const bool whole : {false, true}) {
      check_setting({.n_rows = 9, .out_features = 37, .in_features = 100, .bias = bias, .whole = whole}, By::matmul);
      check_setting({.n_rows = 130, .out_features = 64, .in_features = 96, .bias = bias, .whole = whole}, By::matmul);
    }
    check_setting({.n_rows = 5, .out_features = 64, .in_features = 96, .bias = bias, .whole = true}, By::matmul);
  }
}

// One object serves many shapes, and the same shape with other pointers and another bias.
void check_matmul_again() {
  const cuda::Matmul matmul;
  Random random(8);
  constexpr int64_t kRows = 20, kOut = 24, kIn = 32;
  for (int i = 0; i < 3; ++i) {
    const DeviceArray<uint16_t> x(rounded(random.normals(kRows * kIn), DType::bf16)),
        weights(std::vector<uint16_t>(kOut * kIn, 0));
    std::vector<float> bias = random.normals(kOut), expected;
    for (int64_t row = 0; row < kRows; ++row) expected.insert(expected.end(), bias.begin(), bias.end());
    const DeviceArray<float> device_bias(bias), out(size_t(kRows * kOut));
    matmul({.x = x.data(),
            .weights = weights.data(),
            .bias = device_bias.data(),
            .n_rows = kRows,
            .out_features = kOut,
            .in_features = kIn,
            .out = out.data()},
           nullptr);
    expect(out.host() == expected, "weights of zero give the bias");
  }
}

}  // namespace

std::vector<Case> matmul_cases() {
  return {
      {"matvec: sizes", [] { check_sizes(false); }},
      {"matvec: sizes with a bias", [] { check_sizes(true); }},
      {"matvec: zero to eight rows", check_row_counts},
      {"matvec: many columns", [] { check_matvec({.n_rows = 2, .out_features = 20, .in_features = 4096 + 64}); }},
      {"matvec: many rows of weights", [] { check_matvec({.out_features = 128 * 16 + 3, .in_features = 72}); }},
      {"matvec: rows that are not aligned",
       [] { check_matvec({.n_rows = 2, .out_features = 33, .in_features = 136, .whole = true, .shift = 1}); }},
      {"matmul: few and many rows", check_matmul},
      {"matmul: again", check_matmul_again},
  };
}

}  // namespace squeeze::cuda_tests
