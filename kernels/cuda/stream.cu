// Streams, graphs and events by the CUDA runtime.
#include "kernels/cuda/stream.hpp"

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/recording.hpp"

namespace squeeze::cuda {

OwnStream::OwnStream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "creating a stream"); }
OwnStream::~OwnStream() { cudaStreamDestroy(stream_); }

Graph::Graph(const OwnStream& stream, const std::function<void(Stream)>& work) {
  check(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal), "beginning a capture");
  cudaGraph_t graph = nullptr;
  try {
    const Recording recording;
    work(stream.get());
  } catch (...) {
    cudaStreamEndCapture(stream.get(), &graph);
    if (graph) cudaGraphDestroy(graph);
    throw;
  }
  check(cudaStreamEndCapture(stream.get(), &graph), "ending a capture");
  const cudaError_t status = cudaGraphInstantiate(&executable_, graph, 0);
  cudaGraphDestroy(graph);
  check(status, "instantiating a graph");
}
Graph::~Graph() { cudaGraphExecDestroy(executable_); }

void Graph::replay(const OwnStream& stream) const {
  check(cudaGraphLaunch(executable_, stream.get()), "replaying a graph");
}

double device_ms(const OwnStream& stream, const std::function<void()>& work) {
  struct Event {
    cudaEvent_t event = nullptr;
    Event() { check(cudaEventCreate(&event), "creating an event"); }
    ~Event() { cudaEventDestroy(event); }
  };
  const Event begin, end;
  check(cudaEventRecord(begin.event, stream.get()), "recording an event");
  work();
  check(cudaEventRecord(end.event, stream.get()), "recording an event");
  check(cudaEventSynchronize(end.event), "waiting for an event");
  float ms = 0;
  check(cudaEventElapsedTime(&ms, begin.event, end.event), "time between events");
  return double{ms};
}

DeviceName device_name() {
  int device = 0;
  check(cudaGetDevice(&device), "current device");
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, device), "device properties");
  DeviceName name{properties.name, 0, 0, properties.totalGlobalMem, 0, static_cast<size_t>(properties.l2CacheSize)};
  size_t total = 0;
  check(cudaMemGetInfo(&name.free_bytes, &total), "free memory");
  check(cudaDriverGetVersion(&name.driver), "driver version");
  check(cudaRuntimeGetVersion(&name.runtime), "runtime version");
  return name;
}

}  // namespace squeeze::cuda
