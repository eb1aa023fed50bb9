// Device memory by the CUDA runtime.
#include "kernels/cuda/device_memory.hpp"

#include <atomic>

#include "kernels/cuda/launch.cuh"

namespace squeeze::cuda {

namespace {

std::atomic<int> selected{0};

}  // namespace

void select_device(int index) {
  selected.store(index);
  check(cudaSetDevice(index), "choice of a device");
}

const DeviceLimits& device_limits() {
  static const DeviceLimits limits = [] {
    const int device = selected.load();
    const auto attribute = [&](cudaDeviceAttr which) {
      int value = 0;
      check(cudaDeviceGetAttribute(&value, which, device), "device attribute");
      return value;
    };
    return DeviceLimits{attribute(cudaDevAttrMultiProcessorCount),
                        static_cast<size_t>(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin)),
                        static_cast<size_t>(attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor))};
  }();
  return limits;
}

void* allocate_device(size_t bytes) {
  void* memory = nullptr;
  check(cudaSetDevice(selected.load()), "choice of a device");  // CUDA's current device is one of each thread
  if (bytes > 0) check(cudaMalloc(&memory, bytes), "allocation of device memory");
  return memory;
}

void free_device(void* memory) noexcept { cudaFree(memory); }

void copy_to_device(void* to, const void* from, size_t bytes, Stream stream) {
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream), "copy to the device");
}

void copy_to_host(void* to, const void* from, size_t bytes, Stream stream) {
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream), "copy from the device");
  synchronize(stream);
}

void copy_on_device(void* to, const void* from, size_t bytes, Stream stream) {
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream), "copy on the device");
}

void fill_device(void* memory, int byte, size_t bytes, Stream stream) {
  if (bytes > 0) check(cudaMemsetAsync(memory, byte, bytes, stream), "filling device memory");
}

void synchronize(Stream stream) { check(cudaStreamSynchronize(stream), "waiting for the device"); }

}  // namespace squeeze::cuda
