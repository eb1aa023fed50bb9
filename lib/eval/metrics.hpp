// How much of one query's true attention a selection keeps.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/kernels.hpp"

namespace squeeze {

// Share of the softmax mass of `logits` that lies in the ranges; 1 if there are no logits.
double kept_mass(std::span<const float> logits, std::span<const RowRange> ranges);

// Share of the k largest logits that lie in the ranges, k at least 1 and at most their number; 1 if there are no
// logits. Among equal logits at the border the kept ones count first.
double topk_recall(std::span<const float> logits, std::span<const RowRange> ranges, int64_t k);

}  // namespace squeeze
