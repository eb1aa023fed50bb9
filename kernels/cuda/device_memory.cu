// Device memory by the CUDA runtime.
#include "kernels/cuda/device_memory.hpp"

#include <atomic>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/recording.hpp"

namespace squeeze::cuda {

namespace {

std::atomic<int> selected{0};
std::atomic<uint64_t> allocations{0};

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

size_t free_device_bytes() {
  check(cudaSetDevice(selected.load()), "choice of a device");
  size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "free memory");
  return free;
}

void* allocate_device(size_t bytes) {
  refuse_while_recording("allocating device memory");
  ++allocations;
  void* memory = nullptr;
  check(cudaSetDevice(selected.load()), "choice of a device");  // CUDA's current device is one of each thread
  const cudaError_t status = bytes > 0 ? cudaMalloc(&memory, bytes) : cudaSuccess;
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // no later call is to report it
    throw std::runtime_error("CUDA: out of device memory: " + std::to_string(bytes) + " bytes were asked for, " +
                             std::to_string(free_device_bytes()) + " are free");
  }
  check(status, "allocation of device memory");
  return memory;
}

uint64_t n_allocations() { return allocations.load(); }

void free_device(void* memory) noexcept { cudaFree(memory); }

void* allocate_shared_host(size_t bytes) {
  refuse_while_recording("pinning memory");
  void* memory = nullptr;
  check(cudaSetDevice(selected.load()), "choice of a device");
  if (bytes == 0) return memory;
  // With one address space for host and device (all 64-bit systems) the pointer is the same for both.
  const cudaError_t status = cudaHostAlloc(&memory, bytes, cudaHostAllocMapped | cudaHostAllocPortable);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // no later call is to report it
    throw std::runtime_error("CUDA: the host has no " + std::to_string(bytes) + " bytes more that can be pinned");
  }
  check(status, "allocation of pinned host memory");
  return memory;
}

void free_shared_host(void* memory) noexcept { cudaFreeHost(memory); }

void copy_to_device(void* to, const void* from, size_t bytes, Stream stream) {
  refuse_while_recording("a copy to the device");
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream), "copy to the device");
}

void copy_to_host(void* to, const void* from, size_t bytes, Stream stream) {
  refuse_while_recording("a copy from the device");
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream), "copy from the device");
  synchronize(stream);
}

void copy_on_device(void* to, const void* from, size_t bytes, Stream stream) {
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream), "copy on the device");
}

void fill_device(void* memory, int byte, size_t bytes, Stream stream) {
  if (bytes > 0) check(cudaMemsetAsync(memory, byte, bytes, stream), "filling device memory");
}

void synchronize(Stream stream) {
  refuse_while_recording("waiting for the device");
  check(cudaStreamSynchronize(stream), "waiting for the device");
}

}  // namespace squeeze::cuda
