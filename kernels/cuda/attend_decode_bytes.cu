// The kernels over keys and values in 8 bits.
#include "kernels/cuda/decode_kernel.cuh"

namespace squeeze::cuda {

void attend_decode_bytes(const AttendDecodeArgs& a, Stream stream) {
  a.float_type == DType::bf16 ? launch_decode<BF16, true>(a, stream) : launch_decode<F16, true>(a, stream);
}

}  // namespace squeeze::cuda
