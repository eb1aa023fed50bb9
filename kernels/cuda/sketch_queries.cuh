// Queries as integers, in shared memory, and as matrix fragments that meet the codebook entries of a code.
#pragma once

#include "kernels/cuda/sketch_lookup.hpp"
#include "kernels/cuda/warp.cuh"

namespace squeeze::cuda {

inline constexpr int kSketchHeads = 16;
inline constexpr int kMaxSketchDim = 256;
inline constexpr int kSketchEntries = 16;

// A key's four lanes hold a fourth of its code each: kWords words of four dimensions, in the order of the code, of
// which each is one entry of a codebook, half of one, or two.
template <int kHeadDim, int kDimsPerGroup>
struct CodeLayout {
  static constexpr int kDim = kHeadDim, kGroupDim = kDimsPerGroup;
  static constexpr int kWords = kDim / 16;
  static constexpr int kSteps = kWords / 2;                        // matrix instructions, of 32 dimensions
  static constexpr int kNibbles = kWords * 4 / kGroupDim;          // of the code
  static constexpr int kRows = kWords * (kGroupDim == 2 ? 2 : 1);  // of the table
  static constexpr int kCodeBytes = kDim / kGroupDim / 2;          // of a key
  static constexpr int kNibbleWords = (kNibbles + 7) / 8;
  // Rows of the table; the padding keeps what neighbouring lanes read in other banks.
  __device__ static int row(int t, int i) { return t * (kRows + 1) + i; }
  // The dimension, in the order of the code, that byte i of word w stands for.
  __device__ static int dimension(int t, int w, int i) { return (t * kWords + w) * 4 + i; }
  // The four bits that row i of the table takes its entry by.
  __device__ static constexpr int nibble(int i) { return kGroupDim == 8 ? i / 2 : i; }
};
inline constexpr int kMaxTableRows = 4 * (2 * kMaxSketchDim / 16 + 1);

// A query, each dimension times the step of its codebook's integers, is step * (256 high + low): 16 bits, of which
// groups of more than 8 heads use the upper 8.
struct SketchQueries {                            // shared memory
  uint32_t table[kMaxTableRows][kSketchEntries];  // entries of the codebooks, as words
  float stepped[kSketchHeads][kMaxSketchDim];
  int8_t high[kSketchHeads][kMaxSketchDim];
  int8_t low[kSketchHeads][kMaxSketchDim];
  float factor[kSketchHeads];  // softmax scale * step
};

// Entry b of row i of lane t.
template <class Layout>
__device__ uint32_t table_entry(const int8_t* entries, int t, int i, int b) {
  if constexpr (Layout::kGroupDim == 2) {
    const int8_t* entry = entries + ((t * Layout::kRows + i) * kSketchEntries + b) * 2;
    return uint32_t{*reinterpret_cast<const uint16_t*>(entry)} << (i % 2 * 16);
  } else {
    constexpr int kParts = Layout::kGroupDim / 4;
    const int group = (t * Layout::kRows + i) / kParts;
    return reinterpret_cast<const uint32_t*>(entries)[(group * kSketchEntries + b) * kParts + i % kParts];
  }
}

// By all threads of the block; ends with a barrier.
template <class Layout>
__device__ void load_queries(const SketchLookupArgs& a, int work, bool split, SketchQueries& out) {
  constexpr int kDim = Layout::kDim;
  const int head_of_keys = work % a.n_kv_heads;
  const int thread = static_cast<int>(threadIdx.x), n_threads = static_cast<int>(blockDim.x);
  const float* queries = a.queries + static_cast<int64_t>(work) * a.group * kDim;
  const int32_t* dims = a.dims + head_of_keys * kDim;
  const float* steps = a.steps + head_of_keys * kDim;
  for (int i = thread; i < a.group * kDim; i += n_threads) {
    const int head = i / kDim, c = i % kDim;
    out.stepped[head][c] = queries[head * kDim + dims[c]] * steps[c];
  }
  const int8_t* entries = a.entries + static_cast<int64_t>(head_of_keys) * kDim * kSketchEntries;
  for (int i = thread; i < 4 * Layout::kRows * kSketchEntries; i += n_threads) {
    const int b = i % kSketchEntries, t = i / kSketchEntries / Layout::kRows, row = i / kSketchEntries % Layout::kRows;
    out.table[Layout::row(t, row)][b] = table_entry<Layout>(entries, t, row, b);
  }
  __syncthreads();
  const int lane = thread % kWarpSize, warp = thread / kWarpSize;
  for (int head = warp; head < kSketchHeads; head += n_threads / kWarpSize) {
    float largest = 0.0f;
    for (int c = lane; c < kDim && head < a.group; c += kWarpSize) {
      largest = fmaxf(largest, fabsf(out.stepped[head][c]));
    }
    largest = warp_max(largest);
    const float step = largest > 0.0f ? largest / 32000.0f : 1.0f;
    for (int c = lane; c < kDim; c += kWarpSize) {
      const int whole = head < a.group ? static_cast<int>(rintf(out.stepped[head][c] / step)) : 0;
      const int high = (whole + 128) >> 8;  // rounds; at most 125
      out.high[head][c] = static_cast<int8_t>(high);
      out.low[head][c] = static_cast<int8_t>(split ? whole - high * 256 : 0);
    }
    if (lane == 0) out.factor[head] = a.scale * step;
  }
  __syncthreads();
}

// The four bits of a code that belong to lane t, lowest first.
template <class Layout>
__device__ void load_nibbles(const uint8_t* code, int t, uint32_t (&out)[Layout::kNibbleWords]) {
  constexpr int kNibbles = Layout::kNibbles;
  if constexpr (kNibbles % 2 != 0) {
    const int first = t * kNibbles;
    const uint8_t* own = code + first / 2;
    out[0] = (own[0] | uint32_t{own[1]} << 8) >> (first % 2 * 4);
  } else if constexpr (kNibbles % 8 == 0) {
#pragma unroll
    for (int i = 0; i < Layout::kNibbleWords; ++i)
      out[i] = reinterpret_cast<const uint32_t*>(code + t * kNibbles / 2)[i];
  } else if constexpr (kNibbles % 4 == 0) {
    const auto* own = reinterpret_cast<const uint16_t*>(code + t * kNibbles / 2);
#pragma unroll
    for (int i = 0; i < Layout::kNibbleWords; ++i) out[i] = 0;
#pragma unroll
    for (int i = 0; i < kNibbles / 4; ++i) out[i / 2] |= uint32_t{own[i]} << (i % 2 * 16);
  } else {
#pragma unroll
    for (int i = 0; i < Layout::kNibbleWords; ++i) out[i] = 0;
#pragma unroll
    for (int i = 0; i < kNibbles / 2; ++i) out[i / 4] |= uint32_t{code[t * kNibbles / 2 + i]} << (i % 4 * 8);
  }
}

template <class Layout, bool kSplit>
class SketchFragments {
 public:
  __device__ explicit SketchFragments(const SketchQueries& queries)
      : queries_(queries), t_(static_cast<int>(threadIdx.x) % 4) {
    const int head = static_cast<int>(threadIdx.x) % kWarpSize / 4;
#pragma unroll
    for (int step = 0; step < Layout::kSteps; ++step) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int word = step * 2 + half;
        a_[step][half * 2] = pack_bytes(queries.high[head], word);
        a_[step][half * 2 + 1] = pack_bytes(kSplit ? queries.low[head] : queries.high[head + 8], word);
      }
    }
  }

  // Products of eight keys' codes with the integers: element i is key lane % 4 * 2 + i % 2 for head lane / 4 + i / 2 *
  // 8 (split: elements 2 and 3 are not set). code: of key lane / 4.
  __device__ void dots(const uint8_t* code, int32_t (&out)[4]) const {
    uint32_t nibbles[Layout::kNibbleWords];
    load_nibbles<Layout>(code, t_, nibbles);
#pragma unroll
    for (int i = 0; i < 4; ++i) out[i] = 0;
#pragma unroll
    for (int step = 0; step < Layout::kSteps; ++step) {
      mma_16x8x32(out, a_[step], word(nibbles, step * 2), word(nibbles, step * 2 + 1));
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if constexpr (kSplit) {
        out[i] = out[i] * 256 + out[i + 2];
      } else {
        out[i] *= 256;
        out[i + 2] *= 256;
      }
    }
  }

 private:
  __device__ uint32_t word(const uint32_t (&nibbles)[Layout::kNibbleWords], int w) const {
    const auto look_up = [&](int i) {
      const int n = Layout::nibble(i);
      return queries_.table[Layout::row(t_, i)][nibbles[n / 8] >> (n % 8 * 4) & 15u];
    };
    if constexpr (Layout::kGroupDim == 2) {
      return look_up(2 * w) | look_up(2 * w + 1);
    } else {
      return look_up(w);
    }
  }

  __device__ uint32_t pack_bytes(const int8_t* of_head, int w) const {
    uint32_t packed = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      packed |= static_cast<uint32_t>(static_cast<uint8_t>(of_head[Layout::dimension(t_, w, i)])) << (8 * i);
    }
    return packed;
  }

  const SketchQueries& queries_;
  int t_;
  uint32_t a_[Layout::kSteps][4];
};

}  // namespace squeeze::cuda
