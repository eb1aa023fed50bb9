// What the files that compute on a CUDA device share: tensors in its memory, the stream, and workspaces.
#pragma once

#include <vector>

#include "kernels/cuda/stream.hpp"
#include "lib/core/tensor.hpp"

namespace squeeze {

inline const MemorySpace& cuda_memory() {
  static constexpr MemorySpace kDevice{cuda::allocate_device, [](void* memory) { cuda::free_device(memory); }};
  return kDevice;
}

// Everything is done in the order of this one stream.
class CudaStream {
 public:
  cuda::Stream get() const { return stream_.get(); }

  void upload(const void* host, size_t bytes, void* to) const { cuda::copy_to_device(to, host, bytes, get()); }
  void download(const void* from, size_t bytes, void* host) const { cuda::copy_to_host(host, from, bytes, get()); }

 private:
  cuda::OwnStream stream_;
};

// n elements of device memory that grow, losing their content; not initialised.
template <class T>
class CudaBuffer {
 public:
  T* resized(size_t n) {
    if (n > size_) {
      memory_.reset();  // first: both need not fit
      memory_ = Memory(cuda::allocate_device(n * sizeof(T)), cuda::free_device);
      size_ = n;
    }
    return data();
  }
  // n elements of the host's memory instead, that kernels read over the bus. Once, before all else.
  T* on_host(size_t n) {
    memory_ = Memory(cuda::allocate_shared_host(n * sizeof(T)), cuda::free_shared_host);
    size_ = n;
    return data();
  }
  // The same, filled with a host's vector.
  T* filled(const std::vector<T>& host, const CudaStream& stream) {
    stream.upload(host.data(), host.size() * sizeof(T), resized(host.size()));
    return data();
  }
  T* data() const { return static_cast<T*>(memory_.get()); }

 private:
  using Memory = std::unique_ptr<void, void (*)(void*) noexcept>;
  Memory memory_{nullptr, cuda::free_device};
  size_t size_ = 0;
};

// The workspace of a kernel, which leaves it fit for another call of the same sizes: zeros when they change.
class CudaWorkspace {
 public:
  // sizes: whatever tells calls apart.
  void* of(size_t bytes, const std::vector<int64_t>& sizes, const CudaStream& stream) {
    if (sizes != sizes_) {
      cuda::fill_device(memory_.resized(bytes), 0, bytes, stream.get());
      sizes_ = sizes;
    }
    return memory_.data();
  }

 private:
  CudaBuffer<char> memory_;
  std::vector<int64_t> sizes_;
};

}  // namespace squeeze
