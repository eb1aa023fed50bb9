// Streams, captured graphs and events as plain C++. Every function throws std::runtime_error when the device refuses.
#pragma once

#include <functional>
#include <string>

#include "kernels/cuda/device_memory.hpp"

struct CUevent_st;  // CUDA's
struct CUgraphExec_st;

namespace squeeze::cuda {

class OwnStream {
 public:
  OwnStream();
  ~OwnStream();
  OwnStream(const OwnStream&) = delete;
  OwnStream& operator=(const OwnStream&) = delete;
  Stream get() const { return stream_; }

 private:
  Stream stream_ = nullptr;
};

// What `work` puts on the stream, recorded once and replayed as one launch.
class Graph {
 public:
  Graph(const OwnStream& stream, const std::function<void(Stream)>& work);
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  void replay(const OwnStream& stream) const;

 private:
  CUgraphExec_st* executable_ = nullptr;
};

// Milliseconds of device time that `work` takes on the stream.
double device_ms(const OwnStream& stream, const std::function<void()>& work);

struct DeviceName {
  std::string gpu;
  int driver, runtime;  // CUDA versions, 1000 * major + 10 * minor
  size_t memory_bytes, free_bytes, l2_bytes;
};
DeviceName device_name();

}  // namespace squeeze::cuda
