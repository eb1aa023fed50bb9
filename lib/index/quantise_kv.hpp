// Keys and values as 8-bit integers with a scale per row: half the bytes of 16-bit ones, for a measured error.
#pragma once

#include "lib/index/head_index.hpp"

namespace squeeze {

// Rounds all keys and values of a built layer, as quantise() does, and notes the error per head. What was made of them
// (clusters, means, sketches) stays.
void quantise_kv(IndexLayer& layer);

}  // namespace squeeze
