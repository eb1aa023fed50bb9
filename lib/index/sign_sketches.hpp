// The sketches of index files of versions 2 and 3, as codebooks: the signs of the rotated residual R (k - C) (the idea
// of RaBitQ, Gao and Long, arXiv 2405.12497), with two bits the levels +-0.5 and +-1.5.
#pragma once

#include <cstdint>
#include <vector>

#include "lib/index/head_index.hpp"

namespace squeeze {

// Of the rotation that such files use.
inline constexpr uint64_t kRotationSeed = 1;

constexpr int64_t sign_code_bytes(int bits, int64_t head_dim) { return bits * ((head_dim + 7) / 8); }

// The same for all heads.
struct SignSketches {
  Tensor rotation;  // f32 [head_dim, head_dim]
  SketchCodebooks codebooks;

  // codes: [n_clustered, sign_code_bytes(bits, head_dim)]
  SketchView view(const uint8_t* codes, const uint16_t* scales) const {
    return {codebooks.group_dim,
            codebooks.dims,
            codebooks.entries,
            codebooks.steps,
            codebooks.error,
            codes,
            scales,
            rotation};
  }
};

// bits: 1 or 2.
SignSketches sign_sketches(int bits, int64_t head_dim);

// A random orthogonal matrix, f32 [head_dim, head_dim]: signs made orthonormal (Gram-Schmidt in float64). The same on
// every machine.
Tensor random_rotation(int64_t head_dim, uint64_t seed);

}  // namespace squeeze
