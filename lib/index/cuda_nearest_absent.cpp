// The answer of builds without CUDA.
#include "kernels/cuda/cuda.hpp"
#include "lib/core/error.hpp"
#include "lib/index/cuda_nearest.hpp"

namespace squeeze {

std::vector<int32_t> cuda_nearest(TensorView, std::span<const float>, Tensor, int) { fail("{}", cuda_problem()); }

}  // namespace squeeze
