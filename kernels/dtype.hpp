// The storage types of keys, values, weights and centroids, and their scalar conversions to and from float32.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace squeeze {

// i8 holds integers whose scale is kept beside them; only the functions that say so accept it (of the kernels: attend).
enum class DType : uint8_t { f32, f16, bf16, i8 };

constexpr size_t size_of(DType dtype) { return dtype == DType::f32 ? 4 : dtype == DType::i8 ? 1 : 2; }
constexpr const char* name_of(DType dtype) {
  constexpr const char* kNames[] = {"f32", "f16", "bf16", "i8"};
  return kNames[static_cast<size_t>(dtype)];
}

inline float float_of_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint32_t bits_of_float(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float bf16_to_f32(uint16_t bits) { return float_of_bits(uint32_t{bits} << 16); }

// Rounds to nearest even; a NaN stays a (quiet) NaN.
inline uint16_t f32_to_bf16(float value) {
  const uint32_t bits = bits_of_float(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// IEEE 754 binary16, subnormals included.
inline float f16_to_f32(uint16_t half) {
  const uint32_t sign = uint32_t{half & 0x8000u} << 16;
  const uint32_t exponent = (half >> 10) & 0x1fu;
  const uint32_t mantissa = half & 0x3ffu;
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 5.9604644775390625e-08f;  // 2^-24
    return float_of_bits(bits_of_float(magnitude) | sign);
  }
  if (exponent == 31) return float_of_bits(sign | 0x7f800000u | (mantissa << 13));
  return float_of_bits(sign | ((exponent + 112u) << 23) | (mantissa << 13));
}

// Rounds to nearest even; overflow gives infinity, a NaN stays a NaN.
inline uint16_t f32_to_f16(float value) {
  const uint32_t bits = bits_of_float(value);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (magnitude < 0x38800000u) {  // subnormal half: the addition rounds at 2^-24
    const float shifted = float_of_bits(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (bits_of_float(shifted) - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

// Element `i` of an array of `dtype`, as float32.
inline float load_element(const void* data, DType dtype, int64_t i) {
  if (dtype == DType::f32) return static_cast<const float*>(data)[i];
  if (dtype == DType::i8) return static_cast<const int8_t*>(data)[i];
  const uint16_t bits = static_cast<const uint16_t*>(data)[i];
  return dtype == DType::bf16 ? bf16_to_f32(bits) : f16_to_f32(bits);
}

// i8: `value` lies in [-127, 127]; rounds half away from zero.
inline void store_element(void* data, DType dtype, int64_t i, float value) {
  if (dtype == DType::f32) {
    static_cast<float*>(data)[i] = value;
  } else if (dtype == DType::i8) {
    static_cast<int8_t*>(data)[i] = static_cast<int8_t>(value < 0 ? value - 0.5f : value + 0.5f);
  } else {
    static_cast<uint16_t*>(data)[i] = dtype == DType::bf16 ? f32_to_bf16(value) : f32_to_f16(value);
  }
}

}  // namespace squeeze
