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

// A graph is what was launched, with the arguments as they were; what is no launch is refused.
void check_recording() {
  const cuda::OwnStream stream;
  const DeviceArray<float> delta(std::vector<float>{1, 2, 3}), x(3);
  int n_recorded = 0;
  const cuda::Graph graph(stream, [&](cuda::Stream s) {
    ++n_recorded;
    cuda::fill_device(x.data(), 0, 3 * sizeof(float), s);
    cuda::add(delta.data(), nullptr, 3, 3, x.data(), s);
  });
  for (int i = 0; i < 2; ++i) graph.replay(stream);
  expect(n_recorded == 1, "a replay records anew");
  expect(x.host() == std::vector<float>{1, 2, 3}, "a filling and an addition, twice");

  const auto refuses = [&](const char* what, const std::function<void(cuda::Stream)>& work) {
    try {
      const cuda::Graph none(stream, work);
    } catch (const std::logic_error& error) {
      expect(std::string(error.what()).find(what) != std::string::npos, error.what());
      return;
    }
    expect(false, std::string("recorded: ") + what);
  };
  float host[3] = {};
  refuses("allocating", [](cuda::Stream) { cuda::free_device(cuda::allocate_device(4)); });
  refuses("a copy to the device", [&](cuda::Stream s) { cuda::copy_to_device(x.data(), host, sizeof host, s); });
  refuses("a copy from the device", [&](cuda::Stream s) { cuda::copy_to_host(host, x.data(), sizeof host, s); });
  refuses("waiting", [](cuda::Stream s) { cuda::synchronize(s); });
  const uint64_t before = cuda::n_allocations();
  const DeviceArray<float> other(3);  // what was refused leaves nothing behind
  expect(cuda::n_allocations() == before + 1, "allocations are counted");
  graph.replay(stream);
  expect(x.host() == std::vector<float>{1, 2, 3}, "a replay after refusals");
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
      {"stream: recording", check_recording},
      {"stream: memory", check_memory},
  };
}

}  // namespace squeeze::cuda_tests
