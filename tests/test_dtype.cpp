// Tests of dtype: the scalar conversions between float32 and the 16-bit types.
#include <doctest/doctest.h>

#include <cmath>

#include "kernels/dtype.hpp"
#include "tests/kernel_cases.hpp"

namespace squeeze {
namespace {

// The value of a binary16 by its definition.
double f16_by_definition(uint32_t half) {
  const double sign = half & 0x8000u ? -1 : 1;
  const int exponent = static_cast<int>((half >> 10) & 31u);
  const double mantissa = half & 0x3ffu;
  if (exponent == 31) return mantissa > 0 ? std::nan("") : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(mantissa, -24);
  return sign * std::ldexp(1024 + mantissa, exponent - 25);
}

TEST_SUITE("dtype") {
  TEST_CASE("every f16 has its value as f32, and comes back") {
    for (uint32_t half = 0; half < 0x10000u; ++half) {
      const auto bits = static_cast<uint16_t>(half);
      const double expected = f16_by_definition(half);
      const float found = f16_to_f32(bits);
      if (std::isnan(expected)) {
        REQUIRE(std::isnan(found));
        REQUIRE(std::isnan(f16_to_f32(f32_to_f16(found))));
      } else {
        REQUIRE(double{found} == expected);
        REQUIRE(f32_to_f16(found) == bits);
      }
    }
  }

  TEST_CASE("every bf16 comes back from f32") {
    for (uint32_t half = 0; half < 0x10000u; ++half) {
      const auto bits = static_cast<uint16_t>(half);
      const float value = bf16_to_f32(bits);
      if (std::isnan(value)) {
        REQUIRE(std::isnan(bf16_to_f32(f32_to_bf16(value))));
      } else {
        REQUIRE(f32_to_bf16(value) == bits);
      }
    }
  }

  TEST_CASE("halfway between two neighbours the even one is taken, else the nearer") {
    for (uint32_t half = 0; half < 0x7c00u; ++half) {  // up to the step to infinity, which counts as 65536
      const double low = f16_by_definition(half);
      const double high = half + 1 == 0x7c00u ? 65536.0 : f16_by_definition(half + 1);
      const auto middle = static_cast<float>((low + high) / 2);
      REQUIRE(f32_to_f16(middle) == (half % 2 == 0 ? half : half + 1));
      REQUIRE(f32_to_f16(std::nextafter(middle, 0.0f)) == half);
      REQUIRE(f32_to_f16(-std::nextafter(middle, INFINITY)) == ((half + 1) | 0x8000u));
    }
    for (uint32_t half = 0; half < 0x7f80u; ++half) {
      const float middle = float_of_bits((half << 16) | 0x8000u);
      REQUIRE(f32_to_bf16(middle) == (half % 2 == 0 ? half : half + 1));
      REQUIRE(f32_to_bf16(float_of_bits((half << 16) | 0x7fffu)) == half);
      REQUIRE(f32_to_bf16(float_of_bits((half << 16) | 0x8001u)) == half + 1);
    }
  }

  TEST_CASE("overflow, infinity and NaN") {
    CHECK(f32_to_f16(1e9f) == 0x7c00);
    CHECK(f32_to_f16(-INFINITY) == 0xfc00);
    CHECK(f32_to_bf16(INFINITY) == 0x7f80);
    CHECK(f32_to_bf16(3.4e38f) == 0x7f80);
    for (const uint32_t nan : {0x7f800001u, 0x7fc00000u, 0xffffffffu, 0x7f80ffffu}) {
      CHECK(std::isnan(f16_to_f32(f32_to_f16(float_of_bits(nan)))));
      CHECK(std::isnan(bf16_to_f32(f32_to_bf16(float_of_bits(nan)))));
    }
  }

  TEST_CASE("elements of each type are stored and loaded at their index") {
    for (const DType dtype : test::kDTypes) {
      float buffer[4] = {};
      for (int i = 0; i < 4; ++i) store_element(buffer, dtype, i, static_cast<float>(i) - 1.5f);
      for (int i = 0; i < 4; ++i) CHECK(load_element(buffer, dtype, i) == static_cast<float>(i) - 1.5f);
    }
    CHECK(size_of(DType::f32) == 4);
    CHECK(size_of(DType::bf16) == 2);
  }
}

}  // namespace
}  // namespace squeeze
