// Two launches: a block per KV head says which rows go where, then all blocks copy.
#include "kernels/cuda/row_cache.hpp"

#include <stdexcept>
#include <string>

#include "kernels/cuda/block_scan.cuh"
#include "kernels/cuda/launch.cuh"

namespace squeeze::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kCopyThreads = 256;
constexpr int kAhead = 4;  // loads of a thread that are under way

// The slots that a call fills, per KV head.
struct Filled {
  int32_t* n;      // [n_kv_heads]
  int32_t* slots;  // [n_kv_heads, n_slots]

  __host__ __device__ static Filled of(const RowCacheArgs& a) {
    auto* n = static_cast<int32_t*>(a.workspace);
    return {n, n + a.n_kv_heads};
  }
};

struct Shared {
  ScanSpace scan;
  int32_t slots[kThreads];  // that were found
  int32_t stop;             // the last slot that the hand passed, from where it was
};

// One KV head's cache. By all threads of the block, as everything below.
class HeadCache {
 public:
  __device__ HeadCache(const RowCacheArgs& args, int head, Shared& shared)
      : a_(args),
        shared_(shared),
        slot_of_(args.slot_of + head * args.n_tokens),
        row_of_(args.row_of + static_cast<int64_t>(head) * args.n_slots),
        used_(args.used + static_cast<int64_t>(head) * args.n_slots),
        clock_(args.clock + 2 * head),
        now_(clock_[0] + 1),
        hand_(clock_[1]),
        filled_(Filled::of(args).slots + static_cast<int64_t>(head) * args.n_slots),
        n_left_(2 * int64_t{args.n_slots}) {}

  // Rows that are cached stay: before any other work takes slots.
  __device__ void keep(int work) {
    const int n = a_.n_rows[work];
    for (int i = thread(); i < n; i += kThreads) {
      const int slot = slot_of_[row(work, i)];
      if (slot >= 0) used_[slot] = 2 * now_ + 1;
    }
  }

  // The others take slots.
  __device__ void add(int work) {
    const int n = a_.n_rows[work];
    int n_copied = 0, n_in_place = 0;
    for (int first = 0; first < n; first += kThreads) {
      const int i = first + thread();
      const int own = i < n ? row(work, i) : 0;
      const bool missing = i < n && slot_of_[own] < 0;
      const Scanned scanned = block_scan(missing ? 1 : 0, shared_.scan);
      const int n_missing = static_cast<int>(scanned.total), rank = static_cast<int>(scanned.before);
      const int n_found = find_slots(n_missing);
      if (missing && rank < n_found) give(shared_.slots[rank], own, n_filled_ + rank);
      n_filled_ += n_found;
      n_copied += n_found;
      n_in_place += n_missing - n_found;
      __syncthreads();  // the next rows see what these took
    }
    if (thread() == 0) {
      a_.n_copied[work] = n_copied;
      a_.n_in_place[work] = n_in_place;
    }
  }

  __device__ void finish(int head) {
    if (thread() != 0) return;
    clock_[0] = now_;
    clock_[1] = hand_;
    Filled::of(a_).n[head] = n_filled_;
  }

 private:
  __device__ static int thread() { return static_cast<int>(threadIdx.x); }
  __device__ int row(int work, int i) const { return a_.rows ? a_.rows[work * a_.rows_stride + i] : i; }

  __device__ void give(int slot, int row, int number) {
    if (row_of_[slot] >= 0) slot_of_[row_of_[slot]] = -1;
    row_of_[slot] = row;
    slot_of_[row] = slot;
    filled_[number] = slot;
  }

  // Up to n slots that this call does not read, to shared_.slots; how many there are. In two turns the hand passes all.
  __device__ int find_slots(int n) {
    int n_found = 0;
    while (n_found < n && n_left_ > 0) {
      const int n_slots = a_.n_slots < kThreads ? a_.n_slots : kThreads;
      const int n_seen = n_left_ < n_slots ? static_cast<int>(n_left_) : n_slots;
      const int offset = hand_ + thread() < a_.n_slots ? hand_ + thread() : hand_ + thread() - a_.n_slots;
      const bool seen = thread() < n_seen;
      const int used = seen ? used_[offset] : 2 * now_;
      const bool read_now = used >> 1 == now_, chance = (used & 1) != 0;
      const bool free = seen && !read_now && !chance;
      const Scanned scanned = block_scan(free ? 1 : 0, shared_.scan);
      const int rank = n_found + static_cast<int>(scanned.before), total = n_found + static_cast<int>(scanned.total);
      if (free && rank < n) {
        shared_.slots[rank] = offset;
        used_[offset] = 2 * now_;
      }
      if (thread() == 0 && total < n) shared_.stop = n_seen - 1;
      if (free && rank == n - 1) shared_.stop = thread();
      __syncthreads();
      const int stop = shared_.stop;
      if (seen && thread() <= stop && chance && !read_now) used_[offset] = used - 1;
      __syncthreads();  // before the next round sets it
      hand_ = hand_ + stop + 1 < a_.n_slots ? hand_ + stop + 1 : hand_ + stop + 1 - a_.n_slots;
      n_left_ -= stop + 1;
      n_found = total < n ? total : n;
    }
    return n_found;
  }

  const RowCacheArgs& a_;
  Shared& shared_;
  int32_t *slot_of_, *row_of_, *used_, *clock_;
  int now_, hand_;
  int32_t* filled_;
  int n_filled_ = 0;
  int64_t n_left_;  // slots that the hand may pass
};

__global__ void __launch_bounds__(kThreads, 1) choose_kernel(RowCacheArgs a) {
  auto& shared = *reinterpret_cast<Shared*>(shared_memory());
  const int head = static_cast<int>(blockIdx.x);
  HeadCache cache(a, head, shared);
  for (int work = head; work < a.n_works; work += a.n_kv_heads) cache.keep(work);
  __syncthreads();
  for (int work = head; work < a.n_works; work += a.n_kv_heads) cache.add(work);
  cache.finish(head);
}

// Keys and values of the slots that were given, 16 bytes at a time.
__global__ void __launch_bounds__(kCopyThreads) copy_kernel(RowCacheArgs a) {
  const int head = static_cast<int>(blockIdx.y);
  const Filled filled = Filled::of(a);
  const int32_t* slots = filled.slots + static_cast<int64_t>(head) * a.n_slots;
  const int chunks = a.row_bytes / 16;  // of a key, then of its value
  const int64_t n = int64_t{filled.n[head]} * 2 * chunks, step = int64_t{gridDim.x} * kCopyThreads;
  for (int64_t first = int64_t{blockIdx.x} * kCopyThreads + threadIdx.x; first < n; first += kAhead * step) {
    decltype(load_16(nullptr)) words[kAhead];
    char* to[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int64_t at = first + i * step;
      to[i] = nullptr;
      if (at >= n) continue;
      const int slot = slots[at / (2 * chunks)], chunk = static_cast<int>(at % (2 * chunks));
      const bool of_keys = chunk < chunks;
      const int64_t row = head * a.n_tokens + a.row_of[static_cast<int64_t>(head) * a.n_slots + slot];
      const int column = 16 * (of_keys ? chunk : chunk - chunks);
      words[i] = load_16(static_cast<const char*>(of_keys ? a.keys : a.values) + row * a.row_bytes + column);
      to[i] = static_cast<char*>(of_keys ? a.cached_keys : a.cached_values) +
              (static_cast<int64_t>(head) * a.n_slots + slot) * a.row_bytes + column;
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (to[i]) store_16(to[i], words[i]);
    }
  }
}

}  // namespace

size_t row_cache_workspace_bytes(int n_kv_heads, int n_slots) {
  return sizeof(int32_t) * static_cast<size_t>(n_kv_heads) * (static_cast<size_t>(n_slots) + 1);
}

void cache_rows(const RowCacheArgs& a, Stream stream) {
  if (a.n_works == 0) return;
  if (a.n_works < 0 || a.n_kv_heads < 1 || a.n_slots < 1 || a.row_bytes < 16 || a.row_bytes % 16 != 0) {
    throw std::invalid_argument("cache_rows: expected works, KV heads, slots and rows of 16-byte pieces, found " +
                                std::to_string(a.n_works) + ", " + std::to_string(a.n_kv_heads) + ", " +
                                std::to_string(a.n_slots) + " and " + std::to_string(a.row_bytes) + " bytes");
  }
  const auto n_heads = static_cast<unsigned>(a.n_kv_heads);
  launch(choose_kernel, {.grid_x = n_heads, .threads = kThreads, .shared_bytes = sizeof(Shared)}, stream, a);
  const unsigned n_blocks = 2 * static_cast<unsigned>(device_limits().n_multiprocessors) / n_heads + 1;
  launch(copy_kernel, {.grid_x = n_blocks, .grid_y = n_heads, .threads = kCopyThreads}, stream, a);
}

}  // namespace squeeze::cuda
