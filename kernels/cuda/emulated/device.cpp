// The device query of builds with the emulation: one device.
#include "kernels/cuda/cuda.hpp"

#include <stdexcept>
#include <string>

namespace squeeze {

bool cuda_compiled() { return true; }
int cuda_device_count() { return 1; }
const char* cuda_problem() { return nullptr; }

void select_cuda_device(int index) {
  if (index != 0) throw std::runtime_error("the emulation has one device, 0; found " + std::to_string(index));
}

}  // namespace squeeze
