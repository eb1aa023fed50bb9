// What kernels use of the device beyond the language: matrix instructions, asynchronous copies, conversions. Compiled
// by nvcc these are PTX instructions (sm_80 and later); compiled by a C++ compiler they run in the emulation of
// kernels/cuda/emulated, so that tests need no device. Fragment layouts: PTX ISA, "Matrix Fragments for mma.m16n8k16"
// and "mma.m16n8k32", "ldmatrix".
#pragma once

#include <cstdint>

#include "kernels/dtype.hpp"

#if defined(__CUDACC__)
#include <cooperative_groups.h>
#include <cuda_runtime.h>
#else
#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "kernels/cuda/emulated/simt.hpp"
#endif

namespace squeeze::cuda {

inline constexpr unsigned kAllLanes = 0xffffffffu;
inline constexpr int kWarpSize = 32;
inline constexpr float kLog2E = 1.4426950408889634f;
inline constexpr float kLn2 = 0.6931471805599453f;

struct F16 {};  // tags of element types
struct BF16 {};

// What bytes are divided by when they are widened. Of f16 numbers it brings them to the size that rows have: their
// scales, a hundredth of that, times softmax weights would fall below f16's range.
template <class T>
inline constexpr float kByteUnit = 1.0f;
template <>
inline constexpr float kByteUnit<F16> = 128.0f;

#if defined(__CUDACC__)

__device__ __forceinline__ char* shared_memory() {
  extern __shared__ __align__(128) char bytes[];
  return bytes;
}
__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// Two's complement: the same bits as the unsigned addition that the device has.
__device__ __forceinline__ void atomic_add(int64_t* at, int64_t x) {
  atomicAdd(reinterpret_cast<unsigned long long*>(at), static_cast<unsigned long long>(x));
}

// Waits for all blocks of a cooperative launch; what they wrote before is visible after.
__device__ __forceinline__ void sync_grid() { cooperative_groups::this_grid().sync(); }

__device__ __forceinline__ uint32_t load_4(const void* p) { return *static_cast<const uint32_t*>(p); }  // aligned
__device__ __forceinline__ uint2 load_8(const void* p) { return *static_cast<const uint2*>(p); }
__device__ __forceinline__ uint4 load_16(const void* p) { return *static_cast<const uint4*>(p); }
__device__ __forceinline__ void store_16(void* p, uint4 words) { *static_cast<uint4*>(p) = words; }

// 2^x; 2^-infinity is 0.
__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Two floats, rounded to nearest even, `low` in the low half.
__device__ __forceinline__ uint32_t pack(float low, float high, BF16) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}
__device__ __forceinline__ uint32_t pack(float low, float high, F16) {
  uint32_t packed;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}
__device__ __forceinline__ float unpack_low(uint32_t packed, BF16) { return __uint_as_float(packed << 16); }
__device__ __forceinline__ float unpack_high(uint32_t packed, BF16) { return __uint_as_float(packed & 0xffff0000u); }
__device__ __forceinline__ float half_to_float(uint16_t bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}
__device__ __forceinline__ float unpack_low(uint32_t packed, F16) {
  return half_to_float(static_cast<uint16_t>(packed & 0xffffu));
}
__device__ __forceinline__ float unpack_high(uint32_t packed, F16) {
  return half_to_float(static_cast<uint16_t>(packed >> 16));
}

// Four signed bytes over kByteUnit, as 16-bit numbers in two pairs; exact. As f16, 1024 + u is 0x6400 + u: with u = 128
// + x, a 128th of it less 9 is a 128th of x.
__device__ __forceinline__ uint32_t widen_pair(uint32_t with_exponents, F16) {
  uint32_t pair;
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(pair) : "r"(with_exponents), "r"(0x20002000u), "r"(0xc880c880u));
  return pair;
}
__device__ __forceinline__ void widen_bytes(uint32_t bytes, uint32_t& first, uint32_t& second, F16 tag) {
  const uint32_t offset = bytes ^ 0x80808080u;  // + 128
  first = widen_pair(__byte_perm(offset, 0x64646464u, 0x4140), tag);
  second = widen_pair(__byte_perm(offset, 0x64646464u, 0x4342), tag);
}
// Of a byte, u is what seven bits say and s the sign, 0 or 128. As bf16, 128 + u is 0x4300 + u, and 128 + s is 0x4300 +
// s: their difference is the number. As a fused multiplication by -1, since subtraction needs sm_90.
__device__ __forceinline__ uint32_t widen_pair(uint32_t with_exponents, BF16) {
  uint32_t pair;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;"
      : "=r"(pair)
      : "r"(with_exponents & 0xff80ff80u), "r"(0xbf80bf80u), "r"(with_exponents & 0xff7fff7fu));
  return pair;
}
__device__ __forceinline__ void widen_bytes(uint32_t bytes, uint32_t& first, uint32_t& second, BF16 tag) {
  first = widen_pair(__byte_perm(bytes, 0x43434343u, 0x4140), tag);
  second = widen_pair(__byte_perm(bytes, 0x43434343u, 0x4342), tag);
}

// d += a b, a 16 x 16, b 16 x 8, d 16 x 8 in float32.
__device__ __forceinline__ void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, BF16) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, F16) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// The same for 8-bit integers, a 16 x 32, b 32 x 8; exact.
__device__ __forceinline__ void mma_16x8x32(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Four 8 x 8 matrices of 16-bit elements; lane i points at row i % 8 (16 bytes, aligned) of matrix i / 8.
__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

// 16 bytes from global to shared memory, zeros if not `valid`; visible after copy_async_wait and a barrier.
__device__ __forceinline__ void copy_async_16(void* to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;"
               :
               : "r"(shared_address(to)), "l"(__cvta_generic_to_global(from)), "r"(valid ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// The same for 4 bytes.
__device__ __forceinline__ void copy_async_4(void* to, const void* from, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;"
               :
               : "r"(shared_address(to)), "l"(__cvta_generic_to_global(from)), "r"(valid ? 4 : 0)
               : "memory");
}
template <int kPending>
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

#else  // the emulation

inline char* shared_memory() { return reinterpret_cast<char*>(emulated::shared_memory()); }
inline void atomic_add(int64_t* at, int64_t x) { *at += x; }
inline void sync_grid() { emulated::sync_grid(); }
struct Words {
  uint32_t x, y, z, w;
};
template <size_t kBytes>
Words load_words(const void* p) {
  if (reinterpret_cast<uintptr_t>(p) % kBytes != 0)
    throw std::runtime_error("emulated kernel: a load that is not aligned");
  Words words = {};
  std::memcpy(&words, p, kBytes);
  return words;
}
inline uint32_t load_4(const void* p) { return load_words<4>(p).x; }
inline Words load_8(const void* p) { return load_words<8>(p); }
inline Words load_16(const void* p) { return load_words<16>(p); }
inline void store_16(void* p, const Words& words) {
  if (reinterpret_cast<uintptr_t>(p) % 16 != 0)
    throw std::runtime_error("emulated kernel: a store that is not aligned");
  std::memcpy(p, &words, 16);
}
inline float exp2_fast(float x) { return std::exp2(x); }

inline uint32_t pack(float low, float high, BF16) { return f32_to_bf16(low) | uint32_t{f32_to_bf16(high)} << 16; }
inline uint32_t pack(float low, float high, F16) { return f32_to_f16(low) | uint32_t{f32_to_f16(high)} << 16; }
inline float half_to_float(uint16_t bits) { return f16_to_f32(bits); }
inline float widen(uint32_t bits, BF16) { return bf16_to_f32(static_cast<uint16_t>(bits)); }
inline float widen(uint32_t bits, F16) { return f16_to_f32(static_cast<uint16_t>(bits)); }
template <class T>
float unpack_low(uint32_t packed, T tag) {
  return widen(packed & 0xffffu, tag);
}
template <class T>
float unpack_high(uint32_t packed, T tag) {
  return widen(packed >> 16, tag);
}

template <class T>
void widen_bytes(uint32_t bytes, uint32_t& first, uint32_t& second, T tag) {
  const auto at = [&](int i) {
    return static_cast<float>(static_cast<int8_t>(bytes >> (8 * i) & 0xffu)) / kByteUnit<T>;
  };
  first = pack(at(0), at(1), tag);
  second = pack(at(2), at(3), tag);
}

template <class Number>
struct Fragments {  // of one lane
  uint32_t a[4], b[2];
  Number d[4];
};

// d += a b of a warp's fragments, a 16 x kInner, b kInner x 8: the elements of row r of a lie in the lanes r % 8 * 4 +
// 0 to 3, of column c of b in the lanes c * 4 + 0 to 3, kInner / 8 to a register. Sums are of type Sum, in the order of
// the inner dimension.
template <int kInner, class Sum, class Number, class Unpack>
void multiply_fragments(std::byte* slots, const Unpack& unpack) {
  constexpr int kPacked = kInner / 8;
  using Own = Fragments<Number>;
  Sum a[16][kInner], b[kInner][8], d[16][8];
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const auto own = emulated::lane_value<Own>(slots, lane);
    for (int e = 0; e < kPacked; ++e) {
      const int inner = lane % 4 * kPacked + e;
      for (int i = 0; i < 4; ++i) a[lane / 4 + i % 2 * 8][i / 2 * 4 * kPacked + inner] = unpack(own.a[i], e);
      for (int i = 0; i < 2; ++i) b[i * 4 * kPacked + inner][lane / 4] = unpack(own.b[i], e);
    }
    for (int i = 0; i < 4; ++i) d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2] = Sum{own.d[i]};
  }
  for (int row = 0; row < 16; ++row) {
    for (int k = 0; k < kInner; ++k) {
      for (int column = 0; column < 8; ++column) d[row][column] += a[row][k] * b[k][column];
    }
  }
  for (int lane = 0; lane < kWarpSize; ++lane) {
    Number out[4];
    for (int i = 0; i < 4; ++i) out[i] = static_cast<Number>(d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2]);
    std::memcpy(slots + lane * 64, out, sizeof out);
  }
}

template <class Number>
void exchange_fragments(Number (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, emulated::Combine multiply) {
  const Fragments<Number> own{{a[0], a[1], a[2], a[3]}, {b0, b1}, {d[0], d[1], d[2], d[3]}};
  const std::byte* slots = emulated::exchange(&own, sizeof own, multiply);
  std::memcpy(d, slots + threadIdx.x % kWarpSize * 64, sizeof d);
}

template <class T>
void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, T) {
  exchange_fragments(d, a, b0, b1, [](std::byte* slots) {
    multiply_fragments<16, double, float>(
        slots, [](uint32_t packed, int e) { return double{e ? unpack_high(packed, T{}) : unpack_low(packed, T{})}; });
  });
}

inline void mma_16x8x32(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  exchange_fragments(d, a, b0, b1, [](std::byte* slots) {
    multiply_fragments<32, int32_t, int32_t>(
        slots, [](uint32_t packed, int e) { return int32_t{static_cast<int8_t>(packed >> (8 * e) & 0xffu)}; });
  });
}

// Lane i of matrix m gets 32 bits: of row i / 4, or, transposed, of column i / 4.
template <bool kTransposed>
void load_matrices_any(uint32_t (&r)[4], const void* row) {
  const auto gather = [](std::byte* slots) {
    uint16_t elements[32][8];  // of the rows that the lanes point at
    for (int i = 0; i < kWarpSize; ++i) {
      std::memcpy(elements[i], emulated::lane_value<const std::byte*>(slots, i), sizeof elements[i]);
    }
    for (int lane = 0; lane < kWarpSize; ++lane) {
      uint32_t out[4];
      for (int m = 0; m < 4; ++m) {
        const int i = lane % 4 * 2, j = lane / 4;
        out[m] = kTransposed ? elements[m * 8 + i][j] | uint32_t{elements[m * 8 + i + 1][j]} << 16
                             : elements[m * 8 + j][i] | uint32_t{elements[m * 8 + j][i + 1]} << 16;
      }
      std::memcpy(slots + lane * 64, out, sizeof out);
    }
  };
  const std::byte* slots = emulated::exchange(&row, sizeof row, gather);
  std::memcpy(r, slots + threadIdx.x % kWarpSize * 64, sizeof r);
}
inline void load_matrices(uint32_t (&r)[4], const void* row) { load_matrices_any<false>(r, row); }
inline void load_matrices_transposed(uint32_t (&r)[4], const void* row) { load_matrices_any<true>(r, row); }

inline void copy_async_16(void* to, const void* from, bool valid) {
  emulated::copy_async(to, from, 16, valid ? 16 : 0);
}
inline void copy_async_4(void* to, const void* from, bool valid) { emulated::copy_async(to, from, 4, valid ? 4 : 0); }
inline void copy_async_commit() { emulated::copy_async_commit(); }
template <int kPending>
void copy_async_wait() {
  emulated::copy_async_wait(kPending);
}

#endif

}  // namespace squeeze::cuda
