// Device memory, streams and limits as plain C++. Every function throws std::runtime_error, with CUDA's own words, when
// the device refuses.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

struct CUstream_st;  // CUDA's

namespace squeeze::cuda {

using Stream = CUstream_st*;  // null: the default stream

void select_device(int index);  // of all threads: each takes it up when it allocates

struct DeviceLimits {
  int n_multiprocessors = 0;
  size_t shared_bytes_per_block = 0;  // that a kernel may ask for
  size_t shared_bytes_per_multiprocessor = 0;
};
const DeviceLimits& device_limits();  // of the selected device
size_t free_device_bytes();           // that nothing has allocated

// While a graph is recorded (stream.hpp), memory can only be filled and copied on the device: the rest of what follows
// throws std::logic_error.
void* allocate_device(size_t bytes);  // 256-byte aligned; null for 0 bytes
uint64_t n_allocations();             // of device memory so far: while it stays, what a graph reads is where it was
void free_device(void* memory) noexcept;
// Memory of the host, pinned, that kernels read in place, over the bus; 256-byte aligned; null for 0 bytes.
void* allocate_shared_host(size_t bytes);
void free_shared_host(void* memory) noexcept;
void copy_to_device(void* to, const void* from, size_t bytes, Stream stream);
void copy_to_host(void* to, const void* from, size_t bytes, Stream stream);  // waits for the stream
void fill_device(void* memory, int byte, size_t bytes, Stream stream);
void copy_on_device(void* to, const void* from, size_t bytes, Stream stream);
void synchronize(Stream stream);

// Owns n elements in device memory, zero at first.
template <class T>
class DeviceArray {
 public:
  DeviceArray() = default;
  explicit DeviceArray(size_t n) : size_(n), data_(static_cast<T*>(allocate_device(n * sizeof(T)))) {
    fill_device(data_, 0, n * sizeof(T), nullptr);
    synchronize(nullptr);
  }
  explicit DeviceArray(const std::vector<T>& host) : DeviceArray(host.size()) {
    copy_to_device(data_, host.data(), size_ * sizeof(T), nullptr);
    synchronize(nullptr);
  }
  DeviceArray(DeviceArray&& other) noexcept
      : size_(std::exchange(other.size_, 0)), data_(std::exchange(other.data_, nullptr)) {}
  DeviceArray& operator=(DeviceArray&& other) noexcept {
    std::swap(size_, other.size_);
    std::swap(data_, other.data_);
    return *this;
  }
  ~DeviceArray() { free_device(data_); }

  T* data() const { return data_; }
  size_t size() const { return size_; }
  std::vector<T> host() const {
    std::vector<T> out(size_);
    copy_to_host(out.data(), data_, size_ * sizeof(T), nullptr);
    return out;
  }

 private:
  size_t size_ = 0;
  T* data_ = nullptr;
};

}  // namespace squeeze::cuda
