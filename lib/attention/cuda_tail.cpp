// Tails that grow.
#include "lib/attention/cuda_tail.hpp"

#include <algorithm>

namespace squeeze {

void CudaTail::make_room(int64_t n, int64_t n_kv_heads, int64_t head_dim, DType dtype, const CudaStream& stream) {
  if (n <= capacity()) return;
  const int64_t grown_to = std::max<int64_t>({64, n, 2 * capacity()});
  const auto row_bytes = static_cast<size_t>(head_dim) * size_of(dtype);
  for (Tensor* cache : {&keys, &values}) {
    Tensor grown(dtype, {n_kv_heads, grown_to, head_dim}, cuda_memory());
    for (int64_t h = 0; n_tokens > 0 && h < n_kv_heads; ++h) {
      cuda::copy_on_device(grown.at(h * grown_to * head_dim), (*cache)[h].data(),
                           static_cast<size_t>(n_tokens) * row_bytes, stream.get());
    }
    cuda::synchronize(stream.get());  // before the old memory goes
    *cache = std::move(grown);
  }
}

}  // namespace squeeze
