// Launching a kernel of one argument struct.
#pragma once

#include <stdexcept>
#include <string>

#include "kernels/cuda/device_memory.hpp"
#include "kernels/cuda/simt.cuh"

namespace squeeze::cuda {

struct LaunchShape {
  unsigned grid_x = 1, grid_y = 1;
  unsigned threads = 128;
  size_t shared_bytes = 0;
  bool cooperative = false;  // all blocks at once, for sync_grid
};

#if defined(__CUDACC__)

inline void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) {
    throw std::runtime_error(std::string("CUDA: ") + what + ": " + cudaGetErrorString(status));
  }
}

// Blocks of a kernel that one multiprocessor runs at once.
template <class Args>
int blocks_per_multiprocessor(void (*kernel)(Args), unsigned threads, size_t shared_bytes) {
  int n = 0;
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&n, kernel, static_cast<int>(threads), shared_bytes),
        "occupancy of a kernel");
  return n;
}

// That the device does: as many as a cooperative launch may have.
template <class Args>
int resident_blocks(void (*kernel)(Args), unsigned threads, size_t shared_bytes) {
  return blocks_per_multiprocessor(kernel, threads, shared_bytes) * device_limits().n_multiprocessors;
}

template <class Args>
void launch(void (*kernel)(Args), const LaunchShape& shape, Stream stream, Args args) {
  const void* function = reinterpret_cast<const void*>(kernel);
  if (shape.shared_bytes > 48 << 10) {
    check(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shape.shared_bytes)),
          "shared memory of a kernel");
  }
  void* pointers[] = {&args};
  const dim3 grid(shape.grid_x, shape.grid_y), block(shape.threads);
  check(shape.cooperative ? cudaLaunchCooperativeKernel(function, grid, block, pointers, shape.shared_bytes, stream)
                          : cudaLaunchKernel(function, grid, block, pointers, shape.shared_bytes, stream),
        "launch of a kernel");
}

#else

template <class Args>
int blocks_per_multiprocessor(void (*)(Args), unsigned, size_t) {
  return 2;
}
template <class Args>
int resident_blocks(void (*)(Args), unsigned, size_t) {
  return device_limits().n_multiprocessors;
}

template <class Args>
void launch(void (*kernel)(Args), const LaunchShape& shape, Stream, Args args) {
  emulated::run_or_record([=] {
    emulated::run_grid({shape.grid_x, shape.grid_y, 1}, {shape.threads, 1, 1}, shape.shared_bytes, shape.cooperative,
                       [&] { kernel(args); });
  });
}

#endif

}  // namespace squeeze::cuda
