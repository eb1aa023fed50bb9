// The table of compute kernels: one function pointer per operation, one table per instruction set.
//
// Kernels see raw pointers, sizes and strides. They run on the calling thread, never throw, print or allocate, and
// accumulate in float32 (scalar: float64). Matrices are row-major with contiguous rows. Sizes may be zero.
//
// Tables differ by rounding. Within one table the same arguments give the same bits, and a row's result (of scores,
// matvec, assign, attend) does not depend on the other rows of the call, so that callers may split rows as they like.
// One exception: attend treats calls of up to 8 queries and calls of more differently, with different rounding.
// amx: attend on bf16 rows takes queries and weights as sums of two bf16 numbers, to 2^-17 of each.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/dtype.hpp"

namespace squeeze {

inline constexpr int kMaxHeadDim = 512;                    // the largest dim that attend and assign accept
inline constexpr int kMaxCodeBytes = kMaxHeadDim / 2 / 2;  // that sketch_scores accepts: four bits per two dimensions

struct RowRange {  // rows [begin, end)
  int32_t begin = 0;
  int32_t end = 0;
  friend bool operator==(const RowRange&, const RowRange&) = default;
};

// out[i * out_stride + j] = scale * dot(queries[i], rows[j])
struct ScoresArgs {
  const float* queries;  // [n_queries, dim]
  int64_t n_queries;
  const void* rows;  // [n_rows, dim] of dtype
  DType dtype;
  int64_t n_rows;
  int64_t dim;
  float scale;
  float* out;  // [n_queries, out_stride]
  int64_t out_stride;
};

// Exact softmax attention of a block of queries over row ranges of one KV head, accumulated into a running state, so
// that several calls (pinned rows, selected clusters, dropped clusters at their means, the causal tail) give the
// softmax over the union of their rows. Start from acc = 0, max = -infinity, sum = 0; the output is acc / sum and the
// log-sum-exp is max + log(sum). Online softmax: Milakov and Gimelshein, arXiv 1805.02867.
// Rows that no query of the call sees (visible, or a bias of -infinity) are not read. A NaN or an
// infinity in a row that one query sees may reach the others. Ranges may be in any order, but only with ascending ones
// are a query's bits independent of what the others see.
struct AttendArgs {
  const float* queries;  // [n_queries, dim]
  int64_t n_queries;
  int64_t dim;  // at most kMaxHeadDim
  float scale;
  const void* keys;        // [*, dim] of dtype
  const void* values;      // [*, dim] of dtype
  DType dtype;             // i8 too
  const RowRange* ranges;  // [n_ranges]
  int64_t n_ranges;
  const int64_t* visible;  // [n_queries], query i sees only rows < visible[i]; null: every query sees every row
  const float* row_bias;   // added to the logit of each row, indexed like keys (log N_i of a cluster); null: zero
  float* acc;              // [n_queries, dim] sum of exp(logit - max) * value
  float* max;              // [n_queries]
  float* sum;              // [n_queries]
  // Of i8 rows, indexed like keys: a row is its integers times its scale. Null for the other types.
  const float* key_scales = nullptr;
  const float* value_scales = nullptr;
};

// nearest[i] = argmax_j dot(points[i], centroids[j]) - offsets[j], the lowest j on a tie; best[i] its value.
// With unit vectors and no offsets: cosine; with offsets = |centroid|^2 / 2: Euclidean.
struct AssignArgs {
  const float* points;  // [n_points, dim]
  int64_t n_points;
  const float* centroids;  // [n_centroids, dim]
  int64_t n_centroids;
  int64_t dim;           // at most kMaxHeadDim
  const float* offsets;  // [n_centroids] or null
  int32_t* nearest;      // [n_points]; -1 where every score is NaN
  float* best;           // [n_points]
};

// out[i * out_stride + j] = dot(x[i], weights[j]) (+ bias[j]): few rows of x against many rows of weights.
struct MatvecArgs {
  const float* x;  // [n_rows, in_features]
  int64_t n_rows;
  const void* weights;  // [out_features, in_features] of dtype
  DType dtype;
  int64_t out_features;
  int64_t in_features;
  const float* bias;  // [out_features] or null
  float* out;         // [n_rows, out_stride]
  int64_t out_stride;
};

// Bytes per query of sketch_scores: 16 for each four bits of a code.
constexpr int64_t sketch_table_bytes(int64_t code_bytes) { return code_bytes * 32; }
inline constexpr int kSketchTableZero = 31;  // the entry that stands for nothing added

// out[i * out_stride + j] = (query_scales[i] * scales[j]) * dot(query i, code j), for the rows of the ranges one after
// the other: column j belongs to the j-th of them.
// The dot is a sum of table entries: for each four bits of the code, the lower ones of a byte first, which are a number
// b in [0, 16), entry b of the query's 16 for them, less kSketchTableZero. Integers, and exact; the float operations
// are these, in this order: all tables give the same bits.
struct SketchScoresArgs {
  const uint8_t* tables;  // [n_queries, sketch_table_bytes(code_bytes)], each at most 2 * kSketchTableZero
  int64_t n_queries;
  const float* query_scales;  // [n_queries]
  const uint8_t* codes;       // [*, code_bytes], from row first_row on
  const uint16_t* scales;     // f16, likewise
  int64_t first_row;
  const RowRange* ranges;  // [n_ranges]
  int64_t n_ranges;
  int64_t code_bytes;  // at most kMaxCodeBytes
  float* out;          // [n_queries, out_stride]
  int64_t out_stride;
};

// weights[i * weights_stride + j] = exp(scores[i * scores_stride + j] + offsets[i * leaf_stride + leaf of j]), and
// sums[i * leaf_stride + leaf] += what the leaf's keys get. Leaf l holds the columns [ends[l - 1], ends[l]), leaf 0
// those from 0 on. largest[i] becomes the largest of itself and the exponents; NaN if one is NaN or infinite. A
// weight's relative error is at most 2^-18 + 2^-22 (|score| + |offset|), while |exponent| is at most 87; beyond, a
// weight is at most e^-87, or arbitrary.
struct LeafWeightsArgs {
  const float* scores;  // [n_queries, scores_stride]
  int64_t scores_stride;
  int64_t n_queries;
  const int32_t* ends;  // [n_leaves], ascending
  int64_t n_leaves;
  const float* offsets;  // [n_queries, leaf_stride]
  float* sums;           // [n_queries, leaf_stride]
  int64_t leaf_stride;
  float* weights;  // [n_queries, weights_stride]
  int64_t weights_stride;
  float* largest;  // [n_queries]
};

// acc[i] += sum_j weights[i * weights_stride + j] * rows[j]
struct WeightedSumArgs {
  const float* weights;  // [n_queries, weights_stride]
  int64_t weights_stride;
  int64_t n_queries;
  const float* rows;  // [n_rows, dim]
  int64_t n_rows;
  int64_t dim;
  float* acc;  // [n_queries, dim]
};

struct Extent {
  float smallest = 0, largest = 0;
};

struct Kernels {
  const char* isa;  // "scalar", "avx2", "amx", "avx512"

  void (*to_f32)(const void* in, DType dtype, int64_t n, float* out);
  void (*from_f32)(const float* in, int64_t n, DType dtype, void* out);

  // out[i] = row_scales[i] * in[i], rows of dim.
  void (*widen_i8)(const int8_t* in, const float* row_scales, int64_t n_rows, int64_t dim, float* out);

  void (*scores)(const ScoresArgs&);
  void (*sketch_scores)(const SketchScoresArgs&);
  void (*leaf_weights)(const LeafWeightsArgs&);
  // The numbers of the elements that are at least `least`, ascending, to out [n]; returns how many.
  int64_t (*find_from)(const float* x, int64_t n, float least, int32_t* out);
  // The smallest and the largest element, NaNs aside; infinity and -infinity if there are none.
  Extent (*extent)(const float* x, int64_t n);
  // x[j] = exp(x[j] - max); returns sum_j weights[j] * x[j] (weights null: all one).
  float (*exp_sum)(float* x, int64_t n, float max, const float* weights);
  // x[j] = log(x[j]) within 2 ulp of the larger of 1 and |log(x[j])|, for numbers that are not negative.
  void (*log)(float* x, int64_t n);
  float (*sum_squares_f16)(const uint16_t* x, int64_t n);
  void (*attend)(const AttendArgs&);
  void (*weighted_sum)(const WeightedSumArgs&);
  void (*assign)(const AssignArgs&);

  void (*matvec)(const MatvecArgs&);
  // out[i] = x[i] / sqrt(mean(x^2) + eps) * weight[i]; out may be x.
  void (*rms_norm)(const float* x, const float* weight, int64_t n, float eps, float* out);
  // Rotates x[i] and x[i + n/2], i < n/2, by the angle whose cosine and sine are given (half-split RoPE), in place.
  void (*rope)(float* x, int64_t n, const float* cosines, const float* sines);
  // out[i] = gate[i] / (1 + exp(-gate[i])) * up[i]; out may be gate.
  void (*swiglu)(const float* gate, const float* up, int64_t n, float* out);
};

// The tables this machine can run, scalar first, the one to use by default last (amx has to be asked for).
std::vector<const Kernels*> available_kernels();

// The table in use: the last one, or the one that the environment variable SQUEEZE_ISA or select_kernels names.
const Kernels& kernels();

// The value of SQUEEZE_ISA if this machine or this build has no such table, else null. Programs check it before any
// work and refuse to run; kernels() itself cannot report it.
const char* invalid_isa_request();

// Chooses the table by its ISA name; returns false, changing nothing, if this machine cannot run it.
bool select_kernels(const char* isa);

}  // namespace squeeze
