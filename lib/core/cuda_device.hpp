// What the files that compute on a CUDA device share: tensors in its memory, the stream, and workspaces.
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <vector>

#include "kernels/cuda/stream.hpp"
#include "lib/core/error.hpp"
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

  // Runs `compute`, which only launches. What it launched last time is replayed as one graph if `key` is the same (then
  // it would launch the same again), and nothing was allocated and no workspace filled anew in between.
  void repeat(const std::vector<const void*>& key, const std::function<void()>& compute) {
    if (state(key) != last_) {
      graph_.reset();
      compute();
    } else {
      if (!graph_) record(compute);
      graph_->replay(stream_);
      ++n_replays_;
    }
    last_ = state(key);
  }
  int64_t n_replays() const { return n_replays_; }
  void note_refill() const { ++n_refills_; }

 private:
  struct State {
    std::vector<const void*> key;
    uint64_t n_allocations, n_refills;
    friend bool operator==(const State&, const State&) = default;
  };
  void record(const std::function<void()>& compute) {
    try {
      graph_ = std::make_unique<cuda::Graph>(stream_, [&](cuda::Stream) { compute(); });
    } catch (const std::exception& e) {
      fail("a token's pass could not be recorded as a graph: {}; --no-graph launches its kernels one by one", e.what());
    }
  }
  State state(const std::vector<const void*>& key) const { return {key, cuda::n_allocations(), n_refills_}; }

  cuda::OwnStream stream_;
  State last_ = {};  // after the last call
  std::unique_ptr<cuda::Graph> graph_;
  int64_t n_replays_ = 0;
  mutable uint64_t n_refills_ = 0;
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

// The workspace of a kernel, which leaves it fit for another call of the same layout: zeros when that changes.
class CudaWorkspace {
 public:
  // layout: the sizes that say where the kernel expects zeros.
  void* of(size_t bytes, const std::vector<int64_t>& layout, const CudaStream& stream) {
    if (layout != layout_ || bytes > n_bytes_) {
      n_bytes_ = std::max(bytes, n_bytes_);
      cuda::fill_device(memory_.resized(n_bytes_), 0, n_bytes_, stream.get());
      layout_ = layout;
      stream.note_refill();
    }
    return memory_.data();
  }

 private:
  CudaBuffer<char> memory_;
  size_t n_bytes_ = 0;
  std::vector<int64_t> layout_;
};

}  // namespace squeeze
