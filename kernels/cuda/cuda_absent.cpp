// The answers of builds without CUDA.
#include "kernels/cuda/cuda.hpp"

#include <stdexcept>

namespace squeeze {

bool cuda_compiled() { return false; }

int cuda_device_count() { return 0; }

const char* cuda_problem() {
  return "this build has no CUDA backend; install nvcc and configure with -DSQUEEZE_CUDA=ON";
}

void select_cuda_device(int) { throw std::runtime_error(cuda_problem()); }

}  // namespace squeeze
