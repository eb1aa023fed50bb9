// Keys and values after the context, in device memory.
#pragma once

#include "lib/core/cuda_device.hpp"

namespace squeeze {

// Of one request and layer: [n_kv_heads, capacity, head_dim].
struct CudaTail {
  Tensor keys{cuda_memory()}, values{cuda_memory()};
  int64_t n_tokens = 0;

  int64_t capacity() const { return keys.data() ? keys.size(1) : 0; }
  // Room for n rows of every head; what is there moves.
  void make_room(int64_t n, int64_t n_kv_heads, int64_t head_dim, DType dtype, const CudaStream& stream);
};

}  // namespace squeeze
