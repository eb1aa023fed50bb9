// Streams and graphs of the emulation, where everything runs at once.
#include "kernels/cuda/stream.hpp"

#include <chrono>
#include <memory>
#include <vector>

#include "kernels/cuda/emulated/simt.hpp"
#include "kernels/cuda/recording.hpp"

struct CUgraphExec_st {
  std::vector<std::function<void()>> launches;
};

namespace squeeze::cuda {

OwnStream::OwnStream() = default;
OwnStream::~OwnStream() = default;

Graph::Graph(const OwnStream& stream, const std::function<void(Stream)>& work) {
  struct List {  // of what is recorded, until this is done or fails
    explicit List(std::vector<std::function<void()>>& launches) { emulated::recorded = &launches; }
    ~List() { emulated::recorded = nullptr; }
  };
  auto recorded = std::make_unique<CUgraphExec_st>();
  {
    const Recording recording;
    const List list(recorded->launches);
    work(stream.get());
  }
  executable_ = recorded.release();
}
Graph::~Graph() { delete executable_; }
void Graph::replay(const OwnStream&) const {
  for (const std::function<void()>& launch : executable_->launches) launch();
}

double device_ms(const OwnStream&, const std::function<void()>& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
}

DeviceName device_name() { return {"emulated", 0, 0, free_device_bytes(), free_device_bytes(), 0}; }

}  // namespace squeeze::cuda
