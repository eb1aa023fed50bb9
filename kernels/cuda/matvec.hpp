// A linear layer for few rows, at the speed at which memory gives its weights.
#pragma once

#include "kernels/cuda/matmul.hpp"

namespace squeeze::cuda {

inline constexpr int64_t kMatvecRows = 8;

// At most kMatvecRows rows, any number of features; fastest where in_features is a multiple of 8 and pointers are
// 16-byte aligned. The same bits from run to run, and for each row whatever the other rows are.
void matvec(const LinearArgs& args, Stream stream);

}  // namespace squeeze::cuda
