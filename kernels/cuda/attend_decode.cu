// Checks, and the kernels over keys and values in 16 bits.
#include "kernels/cuda/attend_decode.hpp"

#include "kernels/cuda/decode_kernel.cuh"

namespace squeeze::cuda {

size_t attend_decode_workspace_bytes(int n_works, int group, int head_dim) {
  const size_t counters = (static_cast<size_t>(n_works) + 31) / 32 * 32;
  const size_t slots = kMaxBlocks + static_cast<size_t>(n_works);
  return sizeof(float) * (counters + slots * static_cast<size_t>(group) * (static_cast<size_t>(head_dim) + 2));
}

void attend_decode(const AttendDecodeArgs& args, Stream stream) {
  if (args.n_works == 0) return;
  if (args.group < 1 || args.group > kMaxGroup || args.n_works < 0 || args.n_works > 1 << 10) {
    throw std::invalid_argument("attend_decode: expected groups of 1 to 16 query heads and up to 1024 works, found " +
                                std::to_string(args.group) + " and " + std::to_string(args.n_works));
  }
  const DType float_type = args.dtype == DType::i8 ? args.float_type : args.dtype;
  if (float_type != DType::bf16 && float_type != DType::f16) {
    throw std::invalid_argument("attend_decode: expected keys and values of f16 or bf16, or i8 beside one of these");
  }
  if (args.slot_of && (args.n_tokens > kMostCachedRows || args.n_slots > kMostCachedRows)) {
    throw std::invalid_argument("attend_decode: expected copies of rows below 2^30, found " +
                                std::to_string(args.n_slots) + " of " + std::to_string(args.n_tokens));
  }
  AttendDecodeArgs a = args;
  if (a.heads_per_token == 0) a.heads_per_token = a.group;
  if (a.n_tails == 0) a.n_tails = a.n_works;
  if (a.heads_per_token < 0 || a.group % a.heads_per_token != 0 || a.n_tails < 0) {
    throw std::invalid_argument("attend_decode: expected rows of whole tokens, found " + std::to_string(a.group) +
                                " rows, " + std::to_string(a.heads_per_token) + " a token");
  }
  if (a.dtype == DType::i8) return attend_decode_bytes(a, stream);
  float_type == DType::bf16 ? launch_decode<BF16, false>(a, stream) : launch_decode<F16, false>(a, stream);
}

}  // namespace squeeze::cuda
