// Tests of tensor: shapes, views, ownership and conversion.
#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "lib/core/error.hpp"
#include "lib/core/tensor.hpp"

namespace squeeze {
namespace {

Tensor counting(Shape shape) {
  Tensor t(DType::f32, shape);
  for (int64_t i = 0; i < t.n_elements(); ++i) t.f32()[i] = static_cast<float>(i);
  return t;
}

TEST_SUITE("tensor") {
  TEST_CASE("a shape knows its elements, its tail and its text") {
    const Shape shape{2, 3, 5};
    CHECK(shape.rank() == 3);
    CHECK(shape.n_elements() == 30);
    CHECK(shape.tail() == Shape{3, 5});
    CHECK(shape.str() == "[2, 3, 5]");
    CHECK(Shape{}.n_elements() == 1);
    CHECK(Shape{0, 7}.n_elements() == 0);
    CHECK_FALSE(Shape{2, 3} == Shape{3, 2});
  }

  TEST_CASE("impossible shapes are refused") {
    constexpr int64_t huge = std::numeric_limits<int64_t>::max();
    CHECK_THROWS_AS((Shape{-1}), Error);
    CHECK_THROWS_AS((Shape{huge, huge}), Error);
    CHECK_THROWS_AS((Shape{int64_t{1} << 31, int64_t{1} << 31}), Error);
    CHECK_THROWS_AS((Shape{1, 1, 1, 1, 1}), Error);
    CHECK_THROWS_AS(Tensor(DType::f32, Shape{int64_t{1} << 59}), Error);
  }

  TEST_CASE("views index and slice the first dimension") {
    const Tensor t = counting({4, 3, 2});
    CHECK(t[2].shape() == Shape{3, 2});
    CHECK(t[2].f32()[0] == 12);
    CHECK(t[2][1].f32()[1] == 15);
    const TensorView middle = t.view().slice(1, 3);
    CHECK(middle.shape() == Shape{2, 3, 2});
    CHECK(middle.f32()[0] == 6);
    CHECK(t.view().slice(4, 4).n_elements() == 0);
    CHECK(middle.n_bytes() == 48);
  }

  TEST_CASE("memory is aligned, moves, and is copied by clone only") {
    Tensor t = counting({5});
    CHECK(reinterpret_cast<uintptr_t>(t.data()) % 64 == 0);
    const void* memory = t.data();
    Tensor copy = t.clone();
    CHECK(copy.data() != memory);
    CHECK(copy.f32()[4] == 4);
    const Tensor moved = std::move(t);
    CHECK(moved.data() == memory);
    CHECK(Tensor::zeros(DType::bf16, {33}).shape() == Shape{33});
    CHECK(load_element(Tensor::zeros(DType::bf16, {33}).data(), DType::bf16, 32) == 0);
    CHECK(Tensor(DType::f32, {0, 8}).n_bytes() == 0);
  }

  TEST_CASE("conversion between all types keeps what the narrower one can hold") {
    const DType dtypes[] = {DType::f32, DType::f16, DType::bf16};
    for (const DType from : dtypes) {
      for (const DType to : dtypes) {
        const Tensor source = convert(counting({7, 11}), from);  // 0 .. 76: exact in each type
        const Tensor target = convert(source, to);
        CHECK(target.dtype() == to);
        CHECK(target.shape() == Shape{7, 11});
        for (int64_t i = 0; i < 77; ++i) CHECK(load_element(target.data(), to, i) == static_cast<float>(i));
      }
    }
    CHECK(convert(Tensor(DType::f16, {0}), DType::f32).n_elements() == 0);
  }

  TEST_CASE("all_finite finds an infinity or a NaN anywhere") {
    constexpr float kMax = std::numeric_limits<float>::max();
    for (const size_t n : {0, 1, 7, 16, 33}) {
      std::vector<float> x(n, -kMax);
      CHECK(all_finite(x));
      for (float& value : x) {
        for (const float bad : {INFINITY, -INFINITY, NAN}) {
          value = bad;
          CHECK(!all_finite(x));
        }
        value = kMax;
      }
      CHECK(all_finite(x));
    }
  }
}

}  // namespace
}  // namespace squeeze
