// The linear layers of the forward pass: y = x W^T + b on mapped weights of any type.
#pragma once

#include "lib/core/tensor.hpp"
#include "lib/model/operations.hpp"

namespace squeeze {

// What linear() takes in one precision: x as it is (f32), or rounded to bf16; few rows come back as float32, which is
// what the kernel for few rows reads. Keeps its memory.
class LinearInput {
 public:
  explicit LinearInput(Precision precision) : precision_(precision) {}
  TensorView of(TensorView x);  // f32 [n, in_features]; the result is valid until the next call

 private:
  Precision precision_;
  Tensor narrow_, wide_;
};

// out, f32 [n, out_features], from x [n, in_features] (f32, or bf16 if there are many rows: then products are of bf16
// values, accumulated in float32), weights [out_features, in_features] and bias, f32 [out_features] or without data.
// Few rows stream the mapped weights once; many rows go through oneDNN in blocks of out_features. No block depends on
// the thread count. The memory of out is kept if it suffices.
void linear(TensorView x, TensorView weights, TensorView bias, Tensor& out);

}  // namespace squeeze
