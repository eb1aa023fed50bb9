// Streams, graphs, and what device memory says of itself.
#include "kernels/cuda/stream.hpp"

#include "kernels/cuda/forward_ops.hpp"
#include "tests/cuda/cases.hpp"

namespace squeeze::cuda_tests {
namespace {

using cuda::DeviceArray;

void check_graph() {
  const cuda::OwnStream stream;
  const DeviceArray<float> delta(std::vector<float>{1, 2, 3}), x(3);
  const cuda::Graph graph(stream, [&](cuda::Stream s) {
    cuda::add(delta.data(), nullptr, 3, 3, x.data(), s);
    cuda::add(delta.data(), nullptr, 3, 3, x.data(), s);
  });
  expect(x.host() == std::vector<float>(3), "recording runs nothing");
  for (int i = 0; i < 3; ++i) graph.replay(stream);
  cuda::synchronize(stream.get());
  expect(x.host() == std::vector<float>{6, 12, 18}, "three replays of two additions");
  const double ms = cuda::device_ms(stream, [&] { graph.replay(stream); });
  expect(ms >= 0 && x.host() == std::vector<float>{8, 16, 24}, "a replay that is timed");
}

void check_memory() {
  expect(cuda::allocate_device(0) == nullptr, "memory for nothing");
  const size_t free = cuda::free_device_bytes();
  expect(free > 0 && cuda::device_name().memory_bytes >= free, "free memory");
#if !defined(SQUEEZE_EMULATED)
  try {
    cuda::free_device(cuda::allocate_device(size_t{1} << 50));
  } catch (const std::runtime_error& error) {
    expect(std::string(error.what()).find("1125899906842624 bytes were asked for") != std::string::npos, error.what());
    const DeviceArray<float> small(1);  // the failure leaves nothing behind
    return;
  }
  expect(false, "a petabyte of memory");
#endif
}

}  // namespace

std::vector<Case> stream_cases() {
  return {
      {"stream: a graph", check_graph},
      {"stream: memory", check_memory},
  };
}

}  // namespace squeeze::cuda_tests
