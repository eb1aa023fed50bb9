// The forward pass on the selected CUDA device: matrix products of bf16 inputs, the rest in float32.
#pragma once

#include <memory>

#include "lib/model/operations.hpp"

namespace squeeze {

// Precision::bf16; the weights are copied to the device, as bf16. graphs: what repeat() is given is recorded and
// replayed. Throws if this build or this machine has no CUDA.
std::unique_ptr<Operations> cuda_operations(bool graphs = true);

}  // namespace squeeze
