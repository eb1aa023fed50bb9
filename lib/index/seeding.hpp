// Where k-means begins: points far from one another (k-means++, Arthur and Vassilvitskii, SODA 2007).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lib/core/tensor.hpp"

namespace squeeze {

// n_seeds points, f32 [n_seeds, dim]: the first is drawn by weight, each other with a probability that grows with its
// weight times its squared distance to the nearest one before. points: f32 [n, dim]; weights: [n] or empty (all one);
// n_seeds in [1, n]. Costs as much as one iteration. Same result for any number of threads.
Tensor spread_seeds(TensorView points, std::span<const float> weights, int64_t n_seeds, uint64_t seed);

}  // namespace squeeze
