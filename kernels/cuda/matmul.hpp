// The linear layers of a model: matrix products with weights in bf16.
#pragma once

#include <cstdint>
#include <memory>

#include "kernels/cuda/device_memory.hpp"

namespace squeeze::cuda {

// out = x weights^T (+ bias), accumulated in float32. All pointers are device memory; rows are contiguous.
struct LinearArgs {
  const uint16_t* x;        // bf16 [n_rows, in_features]
  const uint16_t* weights;  // bf16 [out_features, in_features]
  const float* bias;        // [out_features] or null
  int64_t n_rows, out_features, in_features;
  float* out;  // f32 [n_rows, out_features]
};

// Up to kMatvecRows rows by matvec.hpp, more by cuBLASLt; the same shape always in the same way. Owns a workspace:
// calls of one object on different streams must not overlap.
class Matmul {
 public:
  Matmul();
  ~Matmul();
  Matmul(const Matmul&) = delete;
  Matmul& operator=(const Matmul&) = delete;

  void operator()(const LinearArgs& args, Stream stream) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace squeeze::cuda
