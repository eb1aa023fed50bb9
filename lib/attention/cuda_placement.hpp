// What of a context lies in device memory, and what stays with the host.
#pragma once

#include "lib/attention/context_attention.hpp"

namespace squeeze {

// Of a key and its value on the device, without scales.
int64_t device_row_bytes(const HeadView& head);

// Keys and values: of the first layers on the device, of the others on the host, with a cache.
struct CudaPlacement {
  size_t n_on_device;
  int n_slots;  // rows that a layer's cache holds, per KV head
};

// device_bytes: what the context may take at most; 0: what is free. Throws if the rest of the index does not fit.
CudaPlacement place_context(const ContextView& context, int64_t device_bytes);

}  // namespace squeeze
