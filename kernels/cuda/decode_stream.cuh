// How a warp of decode_kernel.cuh walks through its units: copies ahead, then the running softmax.
#pragma once

#include "kernels/cuda/attend_decode.hpp"
#include "kernels/cuda/attend_state.cuh"

namespace squeeze::cuda {

inline constexpr int kUnitRows = 16;
inline constexpr int kCachedRow = kMostCachedRows;  // in the number of a row: that of its copy's slot

// kBytes: keys and values of the context are bytes with scales; those of the tail, and value means, are of type T.
template <class TElement, bool kByteRows, int kHeadDim, bool kSplitRows, int kNumWarps, int kNumStages>
struct DecodeConfig {
  using T = TElement;
  static constexpr int kDim = kHeadDim;
  static constexpr bool kSplit = kSplitRows;
  static constexpr bool kBytes = kByteRows;
  static constexpr int kRun = kBytes ? 4 : 2;
  static constexpr bool kQueriesShared = kDim > 128;  // the output fills the registers
  static constexpr int kKeyTiles = kUnitRows / 8;
  static constexpr int kWarps = kNumWarps;
  static constexpr int kStages = kNumStages;
  static constexpr int kThreads = kWarps * kWarpSize;
  static constexpr int kStride = kDim + 8;  // elements of a row in shared memory: eight rows hit different banks
  using Bytes = ByteRows<kDim + 16>;
  // Keys, values; of bytes their scales.
  static constexpr int kStageElements = 2 * kUnitRows * (kStride + (kBytes ? 2 : 0));
  static constexpr size_t kRingBytes = sizeof(uint16_t) * kWarps * kStages * kStageElements;
  static constexpr size_t kQueryBytes = kQueriesShared ? kDim / 16 * kWarpSize * 16 : 0;
  static constexpr size_t kSharedBytes = kRingBytes + kQueryBytes;
  static_assert(kRingBytes >= sizeof(float) * kWarps * kMaxGroup * (kDim + 2), "the warps' states fit in the rings");
};

enum class Part { context, tail, rest };

// Where the rows of one unit are.
struct Unit {
  Part part;
  int first;    // position in the part's list
  int n_valid;  // rows; the others of the 16 are absent
};

struct Units {                    // of one work
  int n_context, n_tail, n_rest;  // n_tail: of the last token

  __device__ static Units of(const AttendDecodeArgs& a, int work) {
    const int more_tokens = a.group / a.heads_per_token - 1;
    return {a.n_rows[work], a.n_tail ? a.n_tail[work] + more_tokens : 0, a.n_rest ? a.n_rest[work] : 0};
  }
  __device__ static int count(int n_rows) { return (n_rows + kUnitRows - 1) / kUnitRows; }
  __device__ int total() const { return count(n_context) + count(n_tail) + count(n_rest); }
  __device__ Unit at(int unit) const {
    Part part = Part::context;
    int n = n_context;
    if (unit >= count(n)) {
      unit -= count(n);
      part = Part::tail;
      n = n_tail;
      if (unit >= count(n)) {
        unit -= count(n);
        part = Part::rest;
        n = n_rest;
      }
    }
    const int first = unit * kUnitRows;
    return {part, first, n - first < kUnitRows ? n - first : kUnitRows};
  }
};

// One warp's way through its units of one work.
template <class C>
class WarpStream {
 public:
  __device__ WarpStream(const AttendDecodeArgs& args, int work, uint16_t* ring)
      : a_(args), work_(work), units_(Units::of(args, work)), ring_(ring), lane_(static_cast<int>(threadIdx.x) % 32) {
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      unseen_[row] = (args.group - 1) / args.heads_per_token - (lane_ / 4 + row * 8) / args.heads_per_token;
    }
  }

  // Units begin, begin + step, ... below end of the work.
  __device__ void run(int begin, int end, int step, const QueryFragments<C>& queries, RunningSoftmax<C>& state) {
    int ahead = begin;  // the next unit to be fetched
    find_row(ahead, end);
#pragma unroll
    for (int s = 0; s < C::kStages - 1; ++s) fetch(ahead, end, step, s);
    int stage = 0;
    for (int unit = begin; unit < end; unit += step) {
      copy_async_wait<C::kStages - 2>();
      __syncwarp();  // the unit has landed for every lane, and every lane has left the stage that is filled next
      fetch(ahead, end, step, stage == 0 ? C::kStages - 1 : stage - 1);
      add_unit(units_.at(unit), ring_ + stage * C::kStageElements, queries, state);
      stage = stage + 1 == C::kStages ? 0 : stage + 1;
    }
    copy_async_wait<0>();
  }

 private:
  static constexpr int kRows = RunningSoftmax<C>::kRows;

  // Lanes 0 to 15: the row of the unit's row `lane`; -1: absent.
  __device__ int row_id(int unit, int end) const {
    if (unit >= end || lane_ >= kUnitRows) return -1;
    const Unit at = units_.at(unit);
    if (lane_ >= at.n_valid) return -1;
    const int position = at.first + lane_;
    if (at.part == Part::tail) return position;
    if (at.part == Part::rest) return a_.rest[work_ * a_.rest_stride + position];
    return a_.rows ? a_.rows[work_ * a_.rows_stride + position] : position;
  }

  // Starts the copies of unit `ahead` and reads the row numbers of the one after it.
  __device__ void fetch(int& ahead, int end, int step, int stage) {
    if (ahead < end) copy_rows(units_.at(ahead).part, ring_ + stage * C::kStageElements);
    copy_async_commit();
    ahead += step;
    find_row(ahead, end);
  }

  __device__ void find_row(int unit, int end) {
    next_row_ = row_id(unit, end);
    if (!a_.slot_of) return;
    if constexpr (C::kBytes) scale_row_ = next_row_;
    if (next_row_ < 0 || units_.at(unit).part != Part::context) return;
    const int slot = a_.slot_of[work_ % a_.n_kv_heads * a_.n_tokens + next_row_];
    if (slot >= 0) next_row_ = slot | kCachedRow;
  }

  // Rows of one head, and copies of some.
  struct Source {
    const void* rows;
    int64_t first;
    const void* copies = nullptr;
    int64_t first_copy = 0;
  };

  __device__ void copy_rows(Part part, uint16_t* stage) const {
    const int64_t head = work_ % a_.n_kv_heads;
    uint16_t* values = stage + kUnitRows * C::kStride;
    if (part == Part::rest) return copy_from<false>({a_.value_means, head * a_.n_clusters}, values);
    if (part == Part::tail) return copy_tail(work_ % a_.n_tails, stage, values);
    a_.slot_of ? copy_context<true>(head, stage, values) : copy_context<false>(head, stage, values);
  }

  __device__ void copy_tail(int tail, uint16_t* keys, uint16_t* values) const {
    const bool own = a_.tail_keys_of != nullptr;
    const int64_t first = own ? 0 : tail * a_.tail_capacity;
    copy_from<false>({own ? a_.tail_keys_of[tail] : a_.tail_keys, first}, keys);
    copy_from<false>({own ? a_.tail_values_of[tail] : a_.tail_values, first}, values);
  }

  // kCached: rows may have copies.
  template <bool kCached>
  __device__ void copy_context(int64_t head, uint16_t* stage, uint16_t* to_values) const {
    const Source keys{a_.keys, head * a_.n_tokens, a_.cached_keys, head * a_.n_slots};
    const Source values{a_.values, head * a_.n_tokens, a_.cached_values, head * a_.n_slots};
    if constexpr (C::kBytes) {
      copy_bytes<kCached>(keys, values, stage);
    } else {
      copy_from<kCached>(keys, stage);
      copy_from<kCached>(values, to_values);
    }
  }

  // Where the row with this number begins; of an absent one, where row 0 does.
  template <bool kCached, class T>
  __device__ static const T* row_of(int id, const Source& source) {
    if constexpr (kCached) {
      if (id >= 0 && (id & kCachedRow) != 0) {
        return static_cast<const T*>(source.copies) + (source.first_copy + (id & ~kCachedRow)) * C::kDim;
      }
    }
    return static_cast<const T*>(source.rows) + (source.first + (id < 0 ? 0 : id)) * C::kDim;
  }

  template <bool kCached>
  __device__ void copy_from(const Source& source, uint16_t* to) const {
    constexpr int kChunks = C::kDim / 8;  // of 16 bytes, per row
#pragma unroll
    for (int i = 0; i < kUnitRows * kChunks / kWarpSize; ++i) {
      const int chunk = i * kWarpSize + lane_;
      const int row = chunk / kChunks, column = chunk % kChunks * 8;
      const int id = __shfl_sync(kAllLanes, next_row_, row);
      copy_async_16(to + row * C::kStride + column, row_of<kCached, uint16_t>(id, source) + column, id >= 0);
    }
  }

  template <bool kCached>
  __device__ void copy_bytes(const Source& keys, const Source& values, uint16_t* stage) const {
    constexpr int kChunks = C::kDim / 16;
    const typename C::Bytes to_keys = byte_rows<C>(stage, 0), to_values = byte_rows<C>(stage, 1);
#pragma unroll
    for (int i = 0; i < kUnitRows * kChunks / kWarpSize; ++i) {
      const int chunk = i * kWarpSize + lane_;
      const int row = chunk / kChunks, column = chunk % kChunks * 16;
      const int id = __shfl_sync(kAllLanes, next_row_, row);
      const int to = row * C::Bytes::kStride + column;
      copy_async_16(to_keys.rows + to, row_of<kCached, char>(id, keys) + column, id >= 0);
      copy_async_16(to_values.rows + to, row_of<kCached, char>(id, values) + column, id >= 0);
    }
    const int row = lane_ % kUnitRows, id = __shfl_sync(kAllLanes, kCached ? scale_row_ : next_row_, row);
    const bool of_keys = lane_ < kUnitRows;
    copy_async_4((of_keys ? to_keys : to_values).scales + row,
                 (of_keys ? a_.key_scales : a_.value_scales) + keys.first + (id < 0 ? 0 : id), id >= 0);
  }

  __device__ void add_unit(const Unit& unit, uint16_t* stage, const QueryFragments<C>& queries,
                           RunningSoftmax<C>& state) const {
    float logits[2][4];
    const bool bytes = C::kBytes && unit.part == Part::context;
    if (bytes) {
      if constexpr (C::kBytes) queries.logits(byte_rows<C>(stage, 0), a_.scale * kLog2E, logits);
    } else if (unit.part == Part::rest) {
      rest_logits(unit, logits);
    } else {
      queries.logits(stage, a_.scale * kLog2E, logits);
    }
    int n_valid[kRows];
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      const int n_seen = units_.n_tail - unseen_[row] - unit.first;
      n_valid[row] = unit.part == Part::tail && n_seen < unit.n_valid ? n_seen : unit.n_valid;
    }
    if constexpr (C::kBytes) {
      if (bytes) return state.add(logits, n_valid, byte_rows<C>(stage, 1));
    }
    state.add(logits, n_valid, stage + kUnitRows * C::kStride);
  }

  __device__ void rest_logits(const Unit& unit, float (&logits)[2][4]) const {
#pragma unroll
    for (int tile = 0; tile < 2; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int head = lane_ / 4 + i / 2 * 8;
        const int position = tile * 8 + lane_ % 4 * 2 + i % 2;
        const bool present = head < a_.group && position < unit.n_valid;
        logits[tile][i] = present ? a_.rest_logits[(static_cast<int64_t>(work_) * a_.group + head) * a_.rest_stride +
                                                   unit.first + position] *
                                        kLog2E
                                  : 0.0f;
      }
    }
  }

  const AttendDecodeArgs& a_;
  int work_;
  Units units_;
  uint16_t* ring_;
  int lane_;
  int next_row_ = -1;   // of the unit that is fetched next, lane by lane
  int scale_row_ = -1;  // the same; of a row that has a copy, the row itself
  int unseen_[kRows];   // rows at the tail's end that the token of this lane's query row does not see
};

}  // namespace squeeze::cuda
