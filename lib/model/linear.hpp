// The linear layers of the forward pass: y = x W^T + b on mapped weights of any type.
#pragma once

#include "lib/core/tensor.hpp"
#include "lib/model/transformer.hpp"

namespace squeeze {

// x, as the matmuls of this precision take it: f32 as it is (moved), or rounded to bf16.
Tensor linear_input(Tensor x, Precision precision);

// f32 [n, out_features] from x [n, in_features] (f32, or bf16: then products are of bf16 values, accumulated in
// float32), weights [out_features, in_features] and bias, f32 [out_features] or without data. Few rows stream the
// mapped weights once; many rows go through oneDNN in blocks of out_features. No block depends on the thread count.
Tensor linear(TensorView x, TensorView weights, TensorView bias);

}  // namespace squeeze
