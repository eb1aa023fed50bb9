// One warp's part of decoding: its queries as matrix fragments, and its running softmax. C: decode_stream.cuh,
// DecodeConfig.
#pragma once

#include "kernels/cuda/rounded_pair.cuh"

namespace squeeze::cuda {

template <class C>
class QueryFragments {
 public:
  // queries: f32 [group, head_dim] in global memory.
  __device__ QueryFragments(const float* queries, int group) {
    const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int column = step * 16 + half * 8 + lane % 4 * 2;
        const int head = lane / 4;
        const RoundedPair<typename C::T> upper(at(queries, group, head, column), at(queries, group, head, column + 1));
        a_[step][half * 2] = upper.rounded;
        if constexpr (C::kSplit) {
          a_[step][half * 2 + 1] = upper.cut_off;
        } else {
          a_[step][half * 2 + 1] =
              pack(at(queries, group, head + 8, column), at(queries, group, head + 8, column + 1), typename C::T{});
        }
      }
    }
  }

  // Logits with 16 keys of one unit, times `scale`: tile t, element i is key t * 8 + lane % 4 * 2 + i % 2 for head
  // lane / 4 + i / 2 * 8 (split: elements 2 and 3 are not set).
  __device__ void logits(const uint16_t* keys, float scale, float (&out)[2][4]) const {
    const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
    const uint16_t* row = keys + (lane % 8 + lane / 16 * 8) * C::kStride + lane / 8 % 2 * 8;
#pragma unroll
    for (int i = 0; i < 4; ++i) out[0][i] = out[1][i] = 0.0f;
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      uint32_t b[4];
      load_matrices(b, row + step * 16);
      mma_16x8x16(out[0], a_[step], b[0], b[1], typename C::T{});
      mma_16x8x16(out[1], a_[step], b[2], b[3], typename C::T{});
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int tile = 0; tile < 2; ++tile) {
        if (C::kSplit && i < 2) out[tile][i] += out[tile][i + 2];
        out[tile][i] *= scale;
      }
    }
  }

 private:
  static constexpr int kSteps = C::kDim / 16;
  __device__ static float at(const float* queries, int group, int head, int column) {
    return head < group ? queries[head * C::kDim + column] : 0.0f;
  }
  uint32_t a_[kSteps][4];
};

template <class C>
class RunningSoftmax {
 public:
  __device__ RunningSoftmax() {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) acc_[tile][i] = 0.0f;
    }
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      max_[row] = -INFINITY;
      sum_[row] = 0.0f;
    }
  }

  // logits as QueryFragments::logits, to the base 2; values: 16 rows, of which n_valid count.
  __device__ void add(float (&logits)[2][4], int n_valid, const uint16_t* values) {
    const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
    uint32_t weights[4];
    float shrink[kRows];
    bool shrinks = false;
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      float x[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int key = i / 2 * 8 + lane % 4 * 2 + i % 2;
        x[i] = key < n_valid ? logits[i / 2][row * 2 + i % 2] : -INFINITY;
      }
      shrink[row] = raise_max(row, x);
      shrinks = shrinks || shrink[row] != 1.0f;
      set_weights(row, x, weights);
    }
    if (__any_sync(kAllLanes, shrinks)) scale_acc(shrink);
    add_values(weights, values);
  }

  // [kMaxGroup, head_dim + 2]: un-normalised output, maximum, sum.
  __device__ void store(float* to) {
    const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      float sum = sum_[row];
      sum += __shfl_xor_sync(kAllLanes, sum, 1);
      sum += __shfl_xor_sync(kAllLanes, sum, 2);
      float* out = to + (lane / 4 + row * 8) * (C::kDim + 2);
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          out[tile * 8 + lane % 4 * 2 + i] = C::kSplit ? acc_[tile][i] + acc_[tile][i + 2] : acc_[tile][row * 2 + i];
        }
      }
      if (lane % 4 == 0) {
        out[C::kDim] = max_[row];
        out[C::kDim + 1] = sum;
      }
    }
  }

 private:
  static constexpr int kRows = C::kSplit ? 1 : 2;  // query rows per lane
  static constexpr int kTiles = C::kDim / 8;

  // Returns what the sums so far shrink by.
  __device__ float raise_max(int row, const float (&x)[4]) {
    float max = fmaxf(fmaxf(x[0], x[1]), fmaxf(x[2], x[3]));
    max = fmaxf(max, __shfl_xor_sync(kAllLanes, max, 1));
    max = fmaxf(max, __shfl_xor_sync(kAllLanes, max, 2));
    max = fmaxf(max, max_[row]);
    const float shrink = max == max_[row] ? 1.0f : exp2_fast(max_[row] - max);
    max_[row] = max;
    sum_[row] *= shrink;
    return shrink;
  }

  __device__ void set_weights(int row, float (&x)[4], uint32_t (&weights)[4]) {
    const float max = max_[row] == -INFINITY ? 0.0f : max_[row];  // every logit so far is -infinity: weights of zero
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      x[i] = exp2_fast(x[i] - max);
      sum_[row] += x[i];
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const RoundedPair<typename C::T> pair(x[half * 2], x[half * 2 + 1]);
      weights[half * 2 + row] = pair.rounded;
      if constexpr (C::kSplit) weights[half * 2 + 1] = pair.cut_off;
    }
  }

  __device__ void scale_acc(const float (&shrink)[kRows]) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) acc_[tile][i] *= shrink[C::kSplit ? 0 : i / 2];
    }
  }

  __device__ void add_values(const uint32_t (&weights)[4], const uint16_t* values) {
    const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
    const uint16_t* row = values + lane % 16 * C::kStride + lane / 16 * 8;
#pragma unroll
    for (int tile = 0; tile < kTiles; tile += 2) {
      uint32_t b[4];
      load_matrices_transposed(b, row + tile * 8);
      mma_16x8x16(acc_[tile], weights, b[0], b[1], typename C::T{});
      mma_16x8x16(acc_[tile + 1], weights, b[2], b[3], typename C::T{});
    }
  }

  float acc_[kTiles][4];
  float max_[kRows];  // to the base 2; the same in the four lanes of a row
  float sum_[kRows];  // of this lane's columns
};

// One column of a row of several states, added up.
struct MergedRow {
  float value = 0.0f, max = -INFINITY, sum = 0.0f;
};

// states: rows of head_dim + 2 as RunningSoftmax::store, `stride` floats apart.
__device__ inline MergedRow merge_row(const float* states, int64_t stride, int n, int head_dim, int column) {
  MergedRow row;
  for (int i = 0; i < n; ++i) row.max = fmaxf(row.max, states[i * stride + head_dim]);
  if (row.max == -INFINITY) return row;
  for (int i = 0; i < n; ++i) {
    const float* state = states + i * stride;
    const float weight = exp2_fast(state[head_dim] - row.max);
    row.value += weight * state[column];
    row.sum += weight * state[head_dim + 1];
  }
  return row;
}

}  // namespace squeeze::cuda
