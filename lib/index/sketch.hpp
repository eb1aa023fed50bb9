// Key sketches: a bit or two per dimension that tell the keys of one leaf apart (the idea of RaBitQ, Gao and Long,
// arXiv 2405.12497). With R a fixed rotation, C the leaf's centroid as stored, x = R (k - C) and `code` its rounding to
// +-1 (one bit) or +-0.5, +-1.5 (two bits):
//   q·k ~ q·C + scale * (R q)·code,   scale = |x|^2 / (x·code)
// For the direction of x itself the estimate is exact; over random rotations it is unbiased for every q.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lib/index/head_index.hpp"

namespace squeeze {

constexpr int64_t sketch_code_bytes(int bits, int64_t head_dim) { return bits * ((head_dim + 7) / 8); }
// What reading one key's sketch costs: its code and its scale.
constexpr int64_t sketch_bytes(int bits, int64_t head_dim) { return sketch_code_bytes(bits, head_dim) + 2; }

// A random orthogonal matrix, f32 [head_dim, head_dim]: signs made orthonormal (Gram-Schmidt in float64). The same on
// every machine.
Tensor random_rotation(int64_t head_dim, uint64_t seed);

// keys: [n_clustered, head_dim] in row order, finite; leaves: of the same head, whose first_row starts at n_sinks.
// bits: 1 or 2.
Sketches sketch_keys(TensorView keys, const LevelView& leaves, int bits, TensorView rotation);

// What kernels().sketch_scores looks up for each query.
struct SketchTables {
  std::vector<uint8_t> entries;  // [n, sketch_table_bytes(head_dim)]
  std::vector<float> scales;     // [n] of the dots, softmax_scale included
  Tensor rotated = {};           // f32 [n, sketch_table_bytes(head_dim) / 4] R q, then zeros
};

// Tables for R q, such that sketch_scores adds softmax_scale * scale * (R q)·code. An entry is the sum over four
// dimensions, in steps of 1/31 of the query's largest: rounding it adds about a thousandth to the variance of an
// estimate. queries: f32 [n, head_dim]. reused: old tables, for their memory. Throws if R q is not finite.
SketchTables sketch_tables(TensorView queries, const SketchView& sketches, float softmax_scale,
                           SketchTables reused = {});

}  // namespace squeeze
