// Device memory of the emulation: the host's.
#include "kernels/cuda/device_memory.hpp"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "kernels/cuda/emulated/simt.hpp"
#include "kernels/cuda/recording.hpp"

namespace squeeze::cuda {
namespace {

std::atomic<uint64_t> allocations{0};

void* allocate(size_t bytes) {
  if (bytes == 0) return nullptr;
  void* memory = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  if (!memory) throw std::runtime_error("emulated device: no memory for " + std::to_string(bytes) + " bytes");
  return memory;
}

}  // namespace

void select_device(int) {}

const DeviceLimits& device_limits() {
  static const DeviceLimits limits{3, 227 << 10, 228 << 10};
  return limits;
}

size_t free_device_bytes() { return size_t{1} << 40; }

void* allocate_device(size_t bytes) {
  refuse_while_recording("allocating device memory");
  ++allocations;
  return allocate(bytes);
}
uint64_t n_allocations() { return allocations.load(); }
void free_device(void* memory) noexcept { std::free(memory); }
void* allocate_shared_host(size_t bytes) {
  refuse_while_recording("pinning memory");
  return allocate(bytes);
}
void free_shared_host(void* memory) noexcept { std::free(memory); }
void copy_to_device(void* to, const void* from, size_t bytes, Stream) {
  refuse_while_recording("a copy to the device");
  if (bytes > 0) std::memcpy(to, from, bytes);
}
void copy_to_host(void* to, const void* from, size_t bytes, Stream) {
  refuse_while_recording("a copy from the device");
  if (bytes > 0) std::memcpy(to, from, bytes);
}
void copy_on_device(void* to, const void* from, size_t bytes, Stream) {
  if (bytes > 0) emulated::run_or_record([=] { std::memcpy(to, from, bytes); });
}
void fill_device(void* memory, int byte, size_t bytes, Stream) {
  if (bytes > 0) emulated::run_or_record([=] { std::memset(memory, byte, bytes); });
}
void synchronize(Stream) { refuse_while_recording("waiting for the device"); }

}  // namespace squeeze::cuda
