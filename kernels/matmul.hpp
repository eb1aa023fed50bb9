// The dense matrix product of the forward pass, by oneDNN.
#pragma once

#include <cstdint>

#include "kernels/dtype.hpp"

namespace squeeze {

// out[i * out_stride + j] = dot(x[i], weights[j]), accumulated in float32. x and weights have the same type: f32, or
// bf16 (AMX or AVX-512 BF16 where the machine has them).
struct MatmulArgs {
  const void* x;        // [n_rows, in_features]
  const void* weights;  // [out_features, in_features]
  DType dtype;
  int64_t n_rows;
  int64_t out_features;
  int64_t in_features;
  float* out;  // [n_rows, out_stride]
  int64_t out_stride;
};

// Runs on the calling thread; may be called from several threads at once. Throws std::exception if oneDNN fails.
void matmul(const MatmulArgs& args);

}  // namespace squeeze
