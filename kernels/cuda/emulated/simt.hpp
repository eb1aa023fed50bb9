// CUDA's execution model on the CPU, for tests: blocks of threads with barriers, warp exchanges, shared memory,
// asynchronous copies and the matrix instructions, so that a kernel's logic can be checked where there is no device.
// Nothing here is fast, and nothing here says anything about a device's rounding inside one matrix instruction or about
// its memory model: a kernel that passes here still has to pass on a device.
//
// What it catches that a device may hide: shared memory is filled with NaNs before each block; a copy lands as late as
// allowed or as early as possible (Settings); warps run in ascending or descending order, each as far ahead of the
// others as barriers let it; a barrier that not all threads reach is reported; under AddressSanitizer every access is
// checked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#include "kernels/dtype.hpp"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define threadIdx (::squeeze::emulated::thread().index)
#define blockIdx (::squeeze::emulated::thread().block)
#define blockDim (::squeeze::emulated::thread().block_size)
#define gridDim (::squeeze::emulated::thread().grid_size)

namespace squeeze::emulated {

struct Settings {
  bool copies_land_late = true;  // when they are waited for; else when they are issued
  bool ascending = true;         // the order in which blocks, warps and lanes run
};
Settings& settings();

struct Index {
  unsigned x = 0, y = 0, z = 0;
};

struct Thread {
  Index index, block, block_size, grid_size;
};
extern constinit thread_local Thread* running_thread;
inline Thread& thread() { return *running_thread; }  // the running one

// Runs `body` once per thread of every block. Blocks run one after the other, ascending or descending; all at once if
// `cooperative`. Throws if the threads of a block wait for each other for ever.
void run_grid(Index grid, Index block, size_t shared_bytes, bool cooperative, const std::function<void()>& body);

// What is put on a stream runs at once, or, where there is a list, is added to it: the launches of a graph, with their
// arguments as they are now.
inline thread_local std::vector<std::function<void()>>* recorded = nullptr;
template <class Work>
void run_or_record(Work work) {
  recorded ? recorded->push_back(std::move(work)) : work();
}

std::byte* shared_memory();
void sync_block();
void sync_grid();
// Hands `bytes` (at most 64) of every lane to all lanes of the warp; returns the 32 slots, 64 bytes apart, valid until
// the thread's next exchange but one. combine: what happens to the slots once all lanes have come, before any goes on.
using Combine = void (*)(std::byte* slots);
const std::byte* exchange(const void* own, size_t bytes, Combine combine = nullptr);

void copy_async(void* to, const void* from, size_t bytes, size_t bytes_read);  // the rest becomes zero
void copy_async_commit();
void copy_async_wait(int pending);  // until at most so many groups of this thread are under way

template <class T>
T lane_value(const std::byte* slots, int lane) {
  T value;
  std::memcpy(&value, slots + lane * 64, sizeof value);
  return value;
}

}  // namespace squeeze::emulated

inline void __syncthreads() { squeeze::emulated::sync_block(); }
inline void __syncwarp(unsigned = ~0u) { squeeze::emulated::exchange(nullptr, 0); }
inline void __threadfence() {}

template <class T>
T __shfl_sync(unsigned, T value, int lane) {
  return squeeze::emulated::lane_value<T>(squeeze::emulated::exchange(&value, sizeof value), lane & 31);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int other) {
  return __shfl_sync(mask, value, static_cast<int>(threadIdx.x & 31) ^ other);
}
template <class T>
T __shfl_up_sync(unsigned, T value, unsigned distance) {
  const int lane = static_cast<int>(threadIdx.x & 31);
  const int from = lane - static_cast<int>(distance);
  return squeeze::emulated::lane_value<T>(squeeze::emulated::exchange(&value, sizeof value), from < 0 ? lane : from);
}
inline unsigned __ballot_sync(unsigned, int predicate) {
  const std::byte* slots = squeeze::emulated::exchange(&predicate, sizeof predicate);
  unsigned bits = 0;
  for (int lane = 0; lane < 32; ++lane) bits |= (squeeze::emulated::lane_value<int>(slots, lane) ? 1u : 0u) << lane;
  return bits;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }

template <class T, class U>
T atomicAdd(T* at, U value) {
  const T old = *at;
  *at = static_cast<T>(old + static_cast<T>(value));
  return old;
}
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __clz(int bits) { return bits == 0 ? 32 : __builtin_clz(static_cast<unsigned>(bits)); }
inline unsigned __float_as_uint(float value) { return squeeze::bits_of_float(value); }
