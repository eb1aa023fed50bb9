// Key sketches: a code of four bits per few dimensions that tells the keys of one leaf apart.
//
// Product quantisation (Jégou, Douze and Schmid, "Product quantization for nearest neighbor search", TPAMI 2011) of the
// residual x = k - C to the leaf's centroid as stored. Every `group_dim` dimensions of a head have a codebook of 16
// entries, learned from the head's own residuals of length 1; a key's code names the entry nearest to x / |x| in each.
// With c the vector that a code stands for,
//   q·k ~ q·C + scale * q·c,   scale = x·c / c·c
// is the nearest multiple of c. What it misses is nearly independent of it, so that the mean of exp(s q·k) over keys of
// equal codes is exp(s estimate) times exp(s^2 / 2 * the variance of what q meets of the miss), which `error` tells:
// |q|^2 * scale^2 * error.
//
// Which dimensions share a codebook is learned too: their variances multiply to about the same in every group (the
// allocation of Ge, He, Ke and Sun, "Optimized product quantization", TPAMI 2014, without its rotation).
#pragma once

#include <cstdint>
#include <vector>

#include "lib/index/head_index.hpp"

namespace squeeze {

inline constexpr int kSketchEntries = 16;  // of a codebook

constexpr int64_t sketch_groups(int group_dim, int64_t head_dim) { return (head_dim + group_dim - 1) / group_dim; }
constexpr int64_t sketch_code_bytes(int group_dim, int64_t head_dim) {
  return (sketch_groups(group_dim, head_dim) + 1) / 2;
}

// Codebooks of the keys and the code of each. keys: [n_clustered, head_dim] in row order, finite; leaves: of the same
// head, whose first_row starts at n_sinks; group_dim: 2, 4 or 8. The same for any number of threads.
Sketches sketch_keys(TensorView keys, const LevelView& leaves, int group_dim);

// The codes, scales and error that these codebooks give: those of sketch_keys again, bit by bit.
Sketches sketch_keys(TensorView keys, const LevelView& leaves, const SketchCodebooks& codebooks);

}  // namespace squeeze
