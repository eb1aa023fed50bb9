// Streams and graphs of the emulation, where everything runs at once: a graph keeps its function and runs it again.
#include "kernels/cuda/stream.hpp"

#include <chrono>

struct CUgraphExec_st {
  std::function<void(squeeze::cuda::Stream)> work;
};

namespace squeeze::cuda {

OwnStream::OwnStream() = default;
OwnStream::~OwnStream() = default;

Graph::Graph(const OwnStream&, const std::function<void(Stream)>& work) : executable_(new CUgraphExec_st{work}) {}
Graph::~Graph() { delete executable_; }
void Graph::replay(const OwnStream& stream) const { executable_->work(stream.get()); }

double device_ms(const OwnStream&, const std::function<void()>& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
}

DeviceName device_name() { return {"emulated", 0, 0, free_device_bytes(), free_device_bytes(), 0}; }

}  // namespace squeeze::cuda
