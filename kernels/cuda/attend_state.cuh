// One warp's part of decoding: its queries as matrix fragments, and its running softmax. C: decode_stream.cuh,
// DecodeConfig.
#pragma once

#include "kernels/cuda/key_rows.cuh"
#include "kernels/cuda/rounded_pair.cuh"

namespace squeeze::cuda {

// In registers; or, if C::kQueriesShared, in shared memory, where the warps of a block have the same ones.
template <class C>
class QueryFragments {
 public:
  // row_of(i): where query row i is, f32 [head_dim], or null. shared: [head_dim / 16, lanes, 4], which the warps fill
  // together: a barrier has to follow.
  template <class RowOf>
  __device__ explicit QueryFragments(const RowOf& row_of, uint32_t* shared = nullptr) : shared_(shared) {
    const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
    const float* upper = row_of(lane / 4);
    const float* lower = C::kSplit ? nullptr : row_of(lane / 4 + 8);
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      if constexpr (C::kQueriesShared) {
        if (step % C::kWarps != static_cast<int>(threadIdx.x) / kWarpSize) continue;
      }
      uint32_t(&a)[4] = a_[C::kQueriesShared ? 0 : step];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int column = first_column(step, half);
        const RoundedPair<typename C::T> pair(at(upper, column), at(upper, column + 1));
        a[half * 2] = pair.rounded;
        a[half * 2 + 1] = C::kSplit ? pair.cut_off : pack(at(lower, column), at(lower, column + 1), typename C::T{});
      }
      if constexpr (C::kQueriesShared) {
#pragma unroll
        for (int i = 0; i < 4; ++i) shared[(step * kWarpSize + lane) * 4 + i] = a[i];
      }
    }
  }

  // The first operand of a step (16 columns).
  __device__ void load(int step, uint32_t (&a)[4]) const {
    if constexpr (C::kQueriesShared) {
      const auto words = load_16(shared_ + (step * kWarpSize + static_cast<int>(threadIdx.x) % kWarpSize) * 4);
      a[0] = words.x;
      a[1] = words.y;
      a[2] = words.z;
      a[3] = words.w;
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) a[i] = a_[step][i];
    }
  }

  // Logits with 8 * kTiles keys, times `scale`: tile t, element i is key t * 8 + lane % 4 * 2 + i % 2 for query row
  // lane / 4 + i / 2 * 8 (split: elements 2 and 3 are not set).
  template <int kTiles>
  __device__ void logits(const uint16_t* keys, float scale, float (&out)[kTiles][4]) const {
    set_zero(out);
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      uint32_t a[4];
      load(step, a);
#pragma unroll
      for (int tile = 0; tile < kTiles; tile += 2) {
        uint32_t b[4];
        load_keys<C>(b, keys + tile * 8 * C::kStride, step);
        mma_16x8x16(out[tile], a, b[0], b[1], typename C::T{});
        mma_16x8x16(out[tile + 1], a, b[2], b[3], typename C::T{});
      }
    }
    finish(out, [&](int) { return scale; });
  }

  // The same for keys in bytes, times their scales too.
  template <int kTiles, int kRowBytes>
  __device__ void logits(const ByteRows<kRowBytes>& keys, float scale, float (&out)[kTiles][4]) const {
    set_zero(out);
#pragma unroll
    for (int step = 0; step < kSteps; step += 2) {
      uint32_t a[2][4];
      load(step, a[0]);
      load(step + 1, a[1]);
#pragma unroll
      for (int tile = 0; tile < kTiles; tile += 2) {
        uint32_t b[2][4];
        load_keys<C>(b, ByteRows<kRowBytes>{keys.rows + tile * 8 * kRowBytes, nullptr}, step);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          mma_16x8x16(out[tile], a[i], b[i][0], b[i][1], typename C::T{});
          mma_16x8x16(out[tile + 1], a[i], b[i][2], b[i][3], typename C::T{});
        }
      }
    }
    finish(out, [&](int key) { return scale * kByteUnit<typename C::T> * keys.scales[key]; });
  }

 private:
  static constexpr int kSteps = C::kDim / 16;
  // Of two columns that a lane has side by side.
  __device__ static int first_column(int step, int half) {
    const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
    if (C::kRun == 8) return step / 2 * 32 + lane % 4 * 8 + step % 2 * 4 + half * 2;
    if (C::kRun == 4) return step * 16 + lane % 4 * 4 + half * 2;
    return step * 16 + half * 8 + lane % 4 * 2;
  }
  template <int kTiles>
  __device__ static void set_zero(float (&out)[kTiles][4]) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) out[tile][i] = 0.0f;
    }
  }
  template <int kTiles, class ScaleOf>
  __device__ static void finish(float (&out)[kTiles][4], const ScaleOf& scale_of) {
    const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (C::kSplit && i < 2) out[tile][i] += out[tile][i + 2];
        out[tile][i] *= scale_of(tile * 8 + lane % 4 * 2 + i % 2);
      }
    }
  }
  __device__ static float at(const float* row, int column) { return row ? row[column] : 0.0f; }
  uint32_t a_[C::kQueriesShared ? 1 : kSteps][4];
  const uint32_t* shared_;
};

template <class C>
class RunningSoftmax {
 public:
  static constexpr int kRows = C::kSplit ? 1 : 2;  // query rows per lane: lane / 4 and, not split, lane / 4 + 8

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

  // logits as QueryFragments::logits, to the base 2; values: the keys' rows, or ByteRows. Of the keys, this lane's row
  // r sees the first n_valid[r].
  template <class Values>
  __device__ void add(const float (&logits)[C::kKeyTiles][4], const int (&n_valid)[kRows], const Values& values) {
    uint32_t weights[C::kKeyTiles / 2][4];
    float shrink[kRows];
    bool shrinks = false;
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      shrink[row] = set_weights(row, logits, n_valid[row], values, weights);
      shrinks = shrinks || shrink[row] != 1.0f;
    }
    if (__any_sync(kAllLanes, shrinks)) scale_acc(shrink);
    add_values(weights, values);
  }

  // The largest logit of this lane's row, and the sum over its four lanes; by all lanes.
  __device__ float max(int row) const { return max_[row]; }
  __device__ float sum(int row) const {
    float sum = sum_[row];
    sum += __shfl_xor_sync(kAllLanes, sum, 1);
    return sum + __shfl_xor_sync(kAllLanes, sum, 2);
  }

  // Calls write(column, x) for this lane's part of the un-normalised output of its row.
  template <class Write>
  __device__ void for_output(int row, const Write& write) const {
    const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int at = lane % 4 * 2 + i;
        const int column = C::kRun == 4 ? tile / 2 * 16 + at * 2 + tile % 2 : tile * 8 + at;
        write(column, C::kSplit ? acc_[tile][i] + acc_[tile][i + 2] : acc_[tile][row * 2 + i]);
      }
    }
  }

  // [16, head_dim + 2] (split: 8 rows): un-normalised output, maximum, sum.
  __device__ void store(float* to) const {
    const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      float* out = to + (lane / 4 + row * 8) * (C::kDim + 2);
      for_output(row, [&](int column, float x) { out[column] = x; });
      const float total = sum(row);
      if (lane % 4 == 0) {
        out[C::kDim] = max_[row];
        out[C::kDim + 1] = total;
      }
    }
  }

 private:
  static constexpr int kTiles = C::kDim / 8;

  __device__ static float value_scale(const uint16_t*, int) { return 1.0f; }
  template <int kRowBytes>
  __device__ static float value_scale(const ByteRows<kRowBytes>& values, int key) {
    return values.scales[key] * kByteUnit<typename C::T>;
  }

  // Raises the maximum; the weights of the row's keys, times their values' scales, rounded; returns what the sums so
  // far shrink by.
  template <class Values>
  __device__ float set_weights(int row, const float (&logits)[C::kKeyTiles][4], int n_valid, const Values& values,
                               uint32_t (&weights)[C::kKeyTiles / 2][4]) {
    const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
    float x[C::kKeyTiles][2];
    float top = max_[row];
#pragma unroll
    for (int tile = 0; tile < C::kKeyTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        x[tile][i] = tile * 8 + lane % 4 * 2 + i < n_valid ? logits[tile][row * 2 + i] : -INFINITY;
        top = fmaxf(top, x[tile][i]);
      }
    }
    top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 1));
    top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 2));
    const float shrink = top == max_[row] ? 1.0f : exp2_fast(max_[row] - top);
    max_[row] = top;
    sum_[row] *= shrink;
    const float base = top == -INFINITY ? 0.0f : top;  // every logit so far is -infinity: weights of zero
#pragma unroll
    for (int tile = 0; tile < C::kKeyTiles; ++tile) {
      const float low = exp2_fast(x[tile][0] - base), high = exp2_fast(x[tile][1] - base);
      sum_[row] += low + high;
      const int key = tile * 8 + lane % 4 * 2;
      const RoundedPair<typename C::T> pair(low * value_scale(values, key), high * value_scale(values, key + 1));
      weights[tile / 2][tile % 2 * 2 + row] = pair.rounded;
      if constexpr (C::kSplit) weights[tile / 2][tile % 2 * 2 + 1] = pair.cut_off;
    }
    return shrink;
  }

  __device__ void scale_acc(const float (&shrink)[kRows]) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) acc_[tile][i] *= shrink[C::kSplit ? 0 : i / 2];
    }
  }

  __device__ void add_values(const uint32_t (&weights)[C::kKeyTiles / 2][4], const uint16_t* values) {
#pragma unroll
    for (int keys = 0; keys < C::kKeyTiles / 2; ++keys) {
#pragma unroll
      for (int tile = 0; tile < kTiles; tile += 2) {
        uint32_t b[4];
        load_values<C>(b, values + keys * 16 * C::kStride, tile);
        mma_16x8x16(acc_[tile], weights[keys], b[0], b[1], typename C::T{});
        mma_16x8x16(acc_[tile + 1], weights[keys], b[2], b[3], typename C::T{});
      }
    }
  }
  template <int kRowBytes>
  __device__ void add_values(const uint32_t (&weights)[C::kKeyTiles / 2][4], const ByteRows<kRowBytes>& values) {
#pragma unroll
    for (int keys = 0; keys < C::kKeyTiles / 2; ++keys) {
#pragma unroll
      for (int tile = 0; tile < kTiles; tile += 4) {
        uint32_t b[2][4];
        load_values<C>(b, ByteRows<kRowBytes>{values.rows + keys * 16 * kRowBytes, nullptr}, tile);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          mma_16x8x16(acc_[tile + i * 2], weights[keys], b[i][0], b[i][1], typename C::T{});
          mma_16x8x16(acc_[tile + i * 2 + 1], weights[keys], b[i][2], b[i][3], typename C::T{});
        }
      }
    }
  }

  float acc_[kTiles][4];
  float max_[kRows];  // to the base 2; the same in the four lanes of a row
  float sum_[kRows];  // of this lane's keys
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
