// Sizes of what is copied to a device, and a division of its memory.
#include "lib/attention/cuda_placement.hpp"

#include <algorithm>

#include "kernels/cuda/device_memory.hpp"
#include "lib/core/error.hpp"

namespace squeeze {
namespace {

constexpr int64_t kSpareBytes = int64_t{1} << 30;  // for what a pass computes in
constexpr int64_t kLeastSlots = 16;                // of a cache that is worth it

// What a layer's keys and values take.
int64_t kv_bytes_of(const std::vector<HeadView>& heads) {
  int64_t bytes = 0;
  for (const HeadView& head : heads) bytes += head.n_tokens() * device_row_bytes(head);
  return bytes;
}

// What the rest of a layer takes on the device, up to rounding.
int64_t index_bytes(const std::vector<HeadView>& heads) {
  int64_t bytes = 0;
  for (const HeadView& head : heads) {
    const int64_t dim = head.keys.size(1);
    for (const LevelView& level : head.levels) bytes += level.n_clusters() * (dim * 4 + 16);
    if (head.sketches.present()) bytes += head.n_clustered() * head.sketches.key_bytes();
    if (head.keys.dtype() == DType::i8) bytes += head.n_tokens() * 2 * int64_t{sizeof(float)};
  }
  return bytes;
}

// Slots that a cache of so many bytes has.
int64_t n_slots_of(int64_t bytes, const std::vector<HeadView>& heads) {
  constexpr int64_t kPerSlot = 3 * sizeof(int32_t), kRounding = 2048;
  const auto n_heads = std::ssize(heads);
  const int64_t for_slots = bytes / n_heads - heads[0].n_tokens() * int64_t{sizeof(int32_t)} - kRounding;
  const int64_t n = std::min(for_slots / (device_row_bytes(heads[0]) + kPerSlot), heads[0].n_tokens());
  return n < kLeastSlots ? 0 : n;
}

// Layers are alike. A cache of half of a layer's rows leaves a seventh of what is read to the bus; a whole layer more
// on the device would take as much from the caches of two (docs/cuda.md has the curve).
CudaPlacement place(const ContextView& context, int64_t bytes) {
  const size_t n_layers = context.layers.size();
  const std::vector<HeadView>& heads = context.layers[0];
  const int64_t whole = kv_bytes_of(heads);
  if (static_cast<int64_t>(n_layers) * whole <= bytes) return {n_layers, 0};
  CudaPlacement best{0, 0};
  for (size_t n = 0; n < n_layers && static_cast<int64_t>(n) * whole <= bytes; ++n) {
    const int64_t left = (bytes - static_cast<int64_t>(n) * whole) / static_cast<int64_t>(n_layers - n);
    const int64_t n_slots = n_slots_of(left, heads);
    if (n == 0 || 2 * n_slots >= heads[0].n_tokens()) best = {n, static_cast<int>(n_slots)};
  }
  return best;
}

}  // namespace

int64_t device_row_bytes(const HeadView& head) {
  return head.keys.size(1) * (head.keys.dtype() == DType::i8 ? 2 : 2 * int64_t{sizeof(uint16_t)});
}

CudaPlacement place_context(const ContextView& context, int64_t device_bytes) {
  const int64_t free = static_cast<int64_t>(cuda::free_device_bytes()) - kSpareBytes;
  int64_t left = device_bytes > 0 ? std::min(device_bytes, free) : free;
  for (const std::vector<HeadView>& heads : context.layers) left -= index_bytes(heads);
  if (left < 0) {
    fail(
        "the index without its keys and values takes {} MiB of device memory more than {}; allow or free more, or use "
        "--device cpu",
        (-left >> 20) + 1,
        device_bytes > 0 && device_bytes < free ? "--device-memory allows" : "is free beside the model");
  }
  return place(context, left);
}

}  // namespace squeeze
