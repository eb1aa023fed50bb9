// The device query of builds with CUDA.
#include <cuda_runtime_api.h>

#include "kernels/cuda/cuda.hpp"
#include "kernels/cuda/launch.cuh"

namespace squeeze {

bool cuda_compiled() { return true; }

int cuda_device_count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

const char* cuda_problem() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  // Also what the runtime says where there is no driver at all.
  if (status == cudaErrorInsufficientDriver) return "there is no NVIDIA driver, or it is too old for this build";
  if (status != cudaSuccess) return cudaGetErrorString(status);
  return count > 0 ? nullptr : "the driver offers no CUDA device";
}

void select_cuda_device(int index) {
  const int n = cuda_device_count();
  if (index < 0 || index >= n) {
    throw std::runtime_error("the driver offers " + std::to_string(n) + " CUDA devices, from 0; found " +
                             std::to_string(index));
  }
  cuda::select_device(index);
}

}  // namespace squeeze
