// Exact attention in double precision, straight from the definition: the truth that everything faster is tested with.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lib/core/tensor.hpp"

namespace squeeze {

// softmax(scale * q·k) of one query over the first n_visible rows of keys [n_rows, head_dim]; zero for the others.
std::vector<double> exact_weights(std::span<const float> query, TensorView keys, double softmax_scale,
                                  int64_t n_visible);

// softmax(scale * q·K^T) V of f32 queries [n_queries, head_dim] over keys and values [n_rows, head_dim] of any dtype;
// query i sees the first visible[i] rows (empty: all). Returns [n_queries * head_dim].
std::vector<double> exact_attention(TensorView queries, TensorView keys, TensorView values, double softmax_scale,
                                    std::span<const int64_t> visible);

}  // namespace squeeze
