// Tests of attend: every table against softmax in double, and the laws of the running state.
#include <doctest/doctest.h>

#include <cmath>

#include "tests/attend_problem.hpp"

namespace squeeze {
namespace {

using namespace test;

// Both regimes of every table: up to 8 query rows, and more.
const int64_t kQueryCounts[] = {1, 2, 4, 5, 8, 9, 16, 33};
const DType kAttendDTypes[] = {DType::f32, DType::f16, DType::bf16, DType::i8};

TEST_SUITE("attend") {
  TEST_CASE("any number of rows and queries, any head_dim, any type") {
    std::mt19937 rng(11);
    int turn = 0;
    for (const Kernels* table : tables_under_test()) {
      for (const int64_t n_rows : kSizes) {
        for (const int64_t n_queries : kQueryCounts) {
          const int64_t dims[] = {1, 8, 15, 16, 33, 64, 80, 96, 128};
          const Problem p(n_queries, dims[turn % 9], n_rows, kAttendDTypes[(turn + turn / 8) % 4], rng);
          ++turn;
          CAPTURE(table->isa);
          CAPTURE(n_rows);
          CAPTURE(n_queries);
          CAPTURE(p.dim);
          check(p, run(*table, p));
        }
      }
    }
  }

  TEST_CASE("the largest head_dim and more queries than a block holds") {
    std::mt19937 rng(12);
    for (const Kernels* table : tables_under_test()) {
      const Problem wide(9, kMaxHeadDim, 101, DType::bf16, rng);
      check(wide, run(*table, wide));
      const Problem few(3, kMaxHeadDim, 101, DType::f16, rng);
      check(few, run(*table, few));
      for (const int64_t n_queries : {3, 9}) {
        const Problem integers(n_queries, kMaxHeadDim, 101, DType::i8, rng);
        check(integers, run(*table, integers));
      }
      const Problem tall(131, 16, 200, DType::f32, rng);
      check(tall, run(*table, tall));
    }
  }

  TEST_CASE("causal: each query sees the rows before its limit") {
    std::mt19937 rng(13);
    for (const Kernels* table : tables_under_test()) {
      for (const int64_t n_queries : {3, 7, 40, 150}) {
        for (const int64_t dim : {24, 64}) {
          Problem p(n_queries, dim, 230, DType::bf16, rng);
          for (int64_t i = 0; i < n_queries; ++i) p.visible.push_back(i < 2 ? 0 : p.n_rows - n_queries + i);
          p.visible.back() = int64_t{1} << 40;
          check(p, run(*table, p));
        }
      }
    }
  }

  TEST_CASE("short ranges, empty ranges, rows out of order") {
    std::mt19937 rng(14);
    for (const Kernels* table : tables_under_test()) {
      for (const int64_t n_queries : {4, 20}) {
        for (const DType dtype : {DType::bf16, DType::i8}) {
          Problem p(n_queries, 64, 400, dtype, rng);
          p.ranges = {{390, 400}, {0, 0}, {5, 5}};
          for (int32_t row = 1; row < 380; row += 3) p.ranges.push_back({row, row + 1 + row % 2});
          check(p, run(*table, p));
          for (int64_t i = 0; i < n_queries; ++i) p.visible.push_back(17 * i + 1);
          check(p, run(*table, p));
          p.ranges.clear();
          check(p, run(*table, p));
        }
      }
    }
  }

  TEST_CASE("row_bias: log N counts a row N times, -infinity leaves it out whatever it holds") {
    std::mt19937 rng(15);
    for (const Kernels* table : tables_under_test()) {
      for (const int64_t n_queries : {3, 30}) {
        for (const auto& [dim, dtype] : {std::pair<int64_t, DType>{40, DType::f32}, {64, DType::bf16}}) {
          Problem p(n_queries, dim, 90, dtype, rng);
          for (int64_t row = 0; row < p.n_rows; ++row) p.bias.push_back(std::log(static_cast<float>(1 + row % 5)));
          check(p, run(*table, p));
          Problem without = p;
          without.ranges = {{0, 30}, {31, 60}, {61, 89}};
          for (const int64_t row : {30, 60, 89}) {
            p.bias[size_t(row)] = -kInfinity;
            for (int64_t c = 0; c < p.dim; ++c) p.keys.set(row * p.dim + c, kNan);
            for (int64_t c = 0; c < p.dim; ++c) p.values.set(row * p.dim + c, kNan);
          }
          CHECK(run(*table, p) == run(*table, without));
        }
      }
    }
  }

  TEST_CASE("several calls give the softmax over the union; a call that sees nothing changes nothing") {
    std::mt19937 rng(16);
    for (const Kernels* table : tables_under_test()) {
      for (const int64_t n_queries : {2, 6, 50}) {
        for (const DType dtype : {DType::f16, DType::bf16}) {
          Problem p(n_queries, 32, 300, dtype, rng);
          State state(p);
          for (const RowRange part : {RowRange{0, 7}, RowRange{7, 200}, RowRange{200, 300}}) {
            p.ranges = {part};
            run(*table, p, state, 0, n_queries);
          }
          p.ranges = {{0, 300}};
          check(p, state);
          const State before = state;
          p.visible.assign(size_t(n_queries), 0);
          run(*table, p, state, 0, n_queries);
          CHECK(state == before);
          p.visible.clear();
          p.bias.assign(300, -kInfinity);
          run(*table, p, state, 0, n_queries);
          CHECK(state == before);
        }
      }
    }
  }

  TEST_CASE("logits far apart neither overflow nor vanish into NaN") {
    std::mt19937 rng(17);
    for (const Kernels* table : tables_under_test()) {
      for (const int64_t n_queries : {2, 20}) {
        for (const auto& [dim, dtype] : {std::pair<int64_t, DType>{16, DType::f32}, {32, DType::bf16}}) {
          Problem p(n_queries, dim, 200, dtype, rng);
          p.scale = 50.0f;
          check(p, run(*table, p));
          p.scale = -50.0f;
          check(p, run(*table, p));
        }
      }
    }
  }

  TEST_CASE("rows that no query sees are not read") {
    std::mt19937 rng(18);
    for (const Kernels* table : tables_under_test()) {
      for (const int64_t n_queries : {2, 20}) {
        for (const int64_t dim : {16, 32}) {
          Problem p(n_queries, dim, 100, DType::bf16, rng);
          for (int64_t i = 77 * p.dim; i < 100 * p.dim; ++i) p.values.set(i, kNan);
          for (int64_t i = 77 * p.dim; i < 100 * p.dim; ++i) p.keys.set(i, kNan);
          p.visible.assign(size_t(n_queries), 77);
          check(p, run(*table, p));
        }
      }
    }
  }

  TEST_CASE("NaN in a visible row is not hidden") {
    std::mt19937 rng(19);
    for (const Kernels* table : tables_under_test()) {
      for (const int64_t n_queries : {2, 20}) {
        for (const int64_t dim : {16, 32}) {
          Problem p(n_queries, dim, 100, DType::bf16, rng);
          p.keys.set(50 * p.dim + 3, kNan);
          const State state = run(*table, p);
          for (const float sum : state.sum) CHECK(std::isnan(sum));
        }
      }
    }
  }

  TEST_CASE("a query's bits do not depend on the other queries of the call") {
    std::mt19937 rng(20);
    for (const Kernels* table : tables_under_test()) {
      for (const auto& [n_queries, cut] : {std::pair<int64_t, int64_t>{4, 1}, {8, 5}, {100, 43}, {300, 150}}) {
        for (const auto& [dim, dtype] :
             {std::pair<int64_t, DType>{40, DType::bf16}, {64, DType::bf16}, {40, DType::i8}}) {
          Problem p(n_queries, dim, 333, dtype, rng);
          p.ranges = {{0, 90}, {95, 96}, {99, 333}};
          for (int64_t i = 0; i < n_queries; ++i) p.visible.push_back(40 + i);
          const State whole = run(*table, p);
          State parts(p);
          run(*table, p, parts, 0, cut);
          run(*table, p, parts, cut, n_queries);
          CHECK(parts == whole);
          check(p, parts);
        }
      }
    }
  }
}

}  // namespace
}  // namespace squeeze
