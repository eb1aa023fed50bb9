// The cluster tree of one layer: what squeeze-build computes, the index file holds and the lookup reads.
//
// Rows are the context's tokens in file order: [0, n_sinks) the first tokens, then the clustered tokens in tree order
// (a leaf's rows are contiguous and ascend by token, a coarse cluster's leaves are contiguous), then the last
// n_window tokens. Levels are ordered coarsest first; the last level holds the leaves.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lib/core/tensor.hpp"

namespace squeeze {

// Rows of floats, or of 8-bit integers with a scale per row.
struct ScaledRows {
  TensorView rows;                // [n, head_dim]
  std::span<const float> scales;  // [n] for i8, else empty

  int64_t row_bytes() const;  // what reading one row costs, its scale included
  // Rows [begin, end) as float32, to out [end - begin, head_dim].
  void widen(int64_t begin, int64_t end, float* out) const;
  // out[i * out_stride + j] = scale * dot(queries[i], row begin + j) for the rows [begin, end); queries: f32 [n,
  // head_dim].
  void scores(TensorView queries, int64_t begin, int64_t end, float scale, float* out, int64_t out_stride) const;
};

// The largest error of one element of a row of `scale` is half of it.
struct QuantisedRows {
  Tensor rows;  // i8 [n, head_dim]
  std::vector<float> scales;
};
// rows: f32 [n, head_dim], finite. A row's largest magnitude becomes 127.
QuantisedRows quantise(TensorView rows);

// One level of one KV head. Owned by a Level or borrowed from a mapped index.
struct LevelView {
  TensorView centroids;                  // [n_clusters, head_dim], mean of the member keys, not normalised
  TensorView value_means;                // [n_clusters, head_dim]
  std::span<const int32_t> first_row;    // [n_clusters + 1]; cluster i holds rows [first_row[i], first_row[i + 1])
  std::span<const int32_t> first_child;  // [n_clusters + 1] clusters of the next level; empty for the leaves
  std::span<const float> centroid_scales = {};  // [n_clusters] if the centroids are i8
  std::span<const float> value_scales = {};     // the same of the value means

  ScaledRows centroid_rows() const { return {centroids, centroid_scales}; }
  ScaledRows value_rows() const { return {value_means, value_scales}; }
  int64_t n_clusters() const { return static_cast<int64_t>(first_row.size()) - 1; }
  int32_t n_rows(int64_t cluster) const { return first_row[cluster + 1] - first_row[cluster]; }
};

// What the codes of one head's sketches stand for (lib/index/sketch.hpp): in each group of dimensions one of 16
// entries, its integers times the steps.
struct SketchCodebooks {
  int group_dim = 0;            // dimensions that four bits stand for; 0: no sketches
  std::vector<int32_t> dims;    // [n_groups, group_dim] of the head; -1: none
  std::vector<int8_t> entries;  // [n_groups, 16, group_dim]
  std::vector<float> steps;     // [n_groups, group_dim]
  float error = 0;              // mean squared miss per dimension of the head, per squared scale
};

// Per clustered key, in row order, a code and a scale: an estimate of its logit at a fraction of its bytes.
struct SketchView {
  int group_dim = 0;  // 0: no sketches
  std::span<const int32_t> dims;
  std::span<const int8_t> entries;
  std::span<const float> steps;
  float error = 0;
  const uint8_t* codes = nullptr;    // [n_clustered, code_bytes()]: group g in four bits of byte g / 2, even ones lower
  const uint16_t* scales = nullptr;  // f16 [n_clustered]
  TensorView rotation = {};          // of queries, before all else; only of older files (lib/index/sign_sketches.hpp)

  bool present() const { return group_dim > 0; }
  int64_t n_groups() const { return std::ssize(dims) / group_dim; }
  int64_t code_bytes() const { return (n_groups() + 1) / 2; }
  int64_t key_bytes() const { return code_bytes() + 2; }  // what reading one key's sketch costs
  // What a lookup reads of the codebooks. Older files have none: theirs is the same for all heads.
  int64_t codebook_bytes() const {
    return rotation.data() ? 0 : std::ssize(entries) + 4 * (std::ssize(dims) + std::ssize(steps)) + 4;
  }
};

// One KV head: keys and values in row order and its levels.
struct HeadView {
  TensorView keys;                        // [n_tokens, head_dim]
  TensorView values;                      // [n_tokens, head_dim], of the same type
  std::span<const int32_t> token_of_row;  // [n_tokens], a permutation
  int32_t n_sinks = 0;
  int32_t n_window = 0;
  std::vector<LevelView> levels;  // at least one
  SketchView sketches = {};
  std::span<const float> key_scales = {};    // [n_tokens] if keys and values are i8
  std::span<const float> value_scales = {};  // the same of the values

  ScaledRows key_rows() const { return {keys, key_scales}; }
  ScaledRows value_rows() const { return {values, value_scales}; }
  // Levels, and the sketches below them: each drops a part of what the one above let through.
  size_t n_stages() const { return levels.size() + (sketches.present() ? 1 : 0); }
  int64_t n_tokens() const { return keys.size(0); }
  int64_t n_clustered() const { return n_tokens() - n_sinks - n_window; }
};

struct Level {
  Tensor centroids;
  Tensor value_means;
  std::vector<int32_t> first_row;
  std::vector<int32_t> first_child;
  std::vector<float> centroid_scales = {};  // [n_clusters] if centroids and value means are i8, else empty
  std::vector<float> value_scales = {};

  LevelView view() const { return {centroids, value_means, first_row, first_child, centroid_scales, value_scales}; }
};

struct Sketches {
  SketchCodebooks codebooks;
  std::vector<uint8_t> codes;    // as SketchView
  std::vector<uint16_t> scales;  // f16

  SketchView view() const {
    return {codebooks.group_dim, codebooks.dims, codebooks.entries, codebooks.steps,
            codebooks.error,     codes.data(),   scales.data()};
  }
};

// What 8 bits cost: over all rows, of |rounded - row| / |row|; none for rows that keep their type.
struct RoundingError {
  double squares = 0;  // of the relative errors, summed
  int64_t n_rows = 0;

  double root_mean_square() const;
  void add(const RoundingError& other);
};

struct HeadIndex {
  std::vector<int32_t> token_of_row;
  std::vector<Level> levels;
  Sketches sketches = {};
  double inertia = 0;  // mean over clustered tokens of 1 - cosine (or squared distance) to the leaf's centroid
  RoundingError key_error = {}, value_error = {};
};

struct IndexLayer {
  Tensor keys;    // [n_kv_heads, n_tokens, head_dim] in row order
  Tensor values;  // same
  std::vector<HeadIndex> heads;
  int32_t n_sinks = 0;
  int32_t n_window = 0;
  std::vector<float> key_scales = {};  // [n_kv_heads * n_tokens] if keys and values are i8, else empty
  std::vector<float> value_scales = {};

  HeadView head(int kv_head) const;
};

}  // namespace squeeze
