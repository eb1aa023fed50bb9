// Tests of key_choice: numbers of keys, mean softmax weights, rows as ranges.
#include "lib/attention/key_choice.hpp"

#include <doctest/doctest.h>

#include <cmath>

#include "lib/core/error.hpp"

namespace squeeze {

TEST_SUITE("key_choice") {
  TEST_CASE("a value is a share up to 1 and a number of keys above") {
    CHECK(key_count(0.05, 1000) == 50);
    CHECK(key_count(0.0001, 1000) == 1);
    CHECK(key_count(1, 1000) == 1000);
    CHECK(key_count(2, 1000) == 2);
    CHECK(key_count(1e12, 1000) == 1000);
    for (const double value : {0.0, -1.0, double{NAN}, double{INFINITY}})
      CHECK_THROWS_AS(check_key_count("x", value), Error);
  }

  TEST_CASE("mean_softmax averages the rows' distributions") {
    const int64_t n_rows = 19;  // more than are held at once
    const auto fill = [](int64_t begin, int64_t end, float* out) {
      for (int64_t row = begin; row < end; ++row) {
        *out++ = row == 0 ? 1000.0f : -1000.0f;  // no overflow
        *out++ = 0.0f;
      }
    };
    const std::vector<double> mean = mean_softmax(n_rows, 2, fill);
    CHECK(mean[0] == doctest::Approx(1.0 / 19));
    CHECK(mean[1] == doctest::Approx(18.0 / 19));
    const auto damaged = [](int64_t, int64_t, float* out) { out[0] = out[1] = NAN; };
    CHECK_THROWS_WITH_AS(mean_softmax(1, 2, damaged), doctest::Contains("not finite"), Error);
  }

  TEST_CASE("best_first puts the lower index first on a tie") {
    CHECK(best_first({0.1, 0.5, 0.1, 0.9}) == std::vector<int32_t>{3, 1, 0, 2});
    CHECK(best_first({}).empty());
  }

  TEST_CASE("select_rows merges rows that touch") {
    const Selection selection = select_rows({9, 3, 5, 4});
    CHECK(selection.ranges == std::vector<RowRange>{{3, 6}, {9, 10}});
    CHECK(selection.n_keys == 4);
    CHECK(selection.dropped.empty());
  }
}

}  // namespace squeeze
