// Cuts attention into chunks of rows and blocks of queries, runs them in parallel and merges their states in order.
#include "lib/attention/partition.hpp"

#include <algorithm>

#include "lib/core/error.hpp"
#include "lib/core/parallel.hpp"

namespace squeeze {
namespace {

constexpr int64_t kChunkBytes = 256 << 10;             // keys and values of a chunk: half of a small L2 cache
constexpr int64_t kLargeChunkBytes = 4 * kChunkBytes;  // for many query rows, whose own states cost more than reading
constexpr int64_t kMinChunkRows = 64;
constexpr int64_t kMinQueryBlock = 32;  // query rows of a task when there are many
constexpr int64_t kMaxQueryBlock = 128;
constexpr size_t kManyWorks = 64;  // enough tasks without cutting a work's chunks apart

using Chunk = AttendScratch::Chunk;
using Task = AttendScratch::Task;

int64_t chunk_rows(const AttendPart& part, int64_t n_query_rows) {
  const int64_t row_bytes =
      ScaledRows{part.keys, part.key_scales}.row_bytes() + ScaledRows{part.values, part.value_scales}.row_bytes();
  const int64_t bytes = n_query_rows < 2 * kMinQueryBlock ? kChunkBytes : kLargeChunkBytes;
  return std::max(kMinChunkRows, bytes / std::max<int64_t>(1, row_bytes));
}

void append_chunks(const AttendPart& part, int64_t n_query_rows, AttendScratch& scratch) {
  const int64_t limit = chunk_rows(part, n_query_rows);
  int64_t room = 0;
  for (RowRange range : part.ranges) {
    while (range.begin < range.end) {
      if (room == 0) {
        scratch.chunks.push_back({&part, scratch.ranges.size(), 0});
        room = limit;
      }
      const auto n = static_cast<int32_t>(std::min<int64_t>(room, range.end - range.begin));
      scratch.ranges.push_back({range.begin, range.begin + n});
      ++scratch.chunks.back().n_ranges;
      range.begin += n;
      room -= n;
    }
  }
}

// Of the chunks from first_chunk on. Returns the rows of partial states that all tasks have by now.
int64_t append_tasks(const AttendWork& work, size_t first_chunk, int64_t n_partial, bool is_one_of_many,
                     AttendScratch& scratch) {
  const int64_t n_rows = work.queries.size(0);
  const size_t n_chunks = scratch.chunks.size() - first_chunk;
  if (n_chunks == 0) return n_partial;
  if (n_rows < 2 * kMinQueryBlock && !is_one_of_many) {
    for (size_t i = 0; i < n_chunks; ++i, n_partial += n_rows) {
      scratch.tasks.push_back({&work, first_chunk + i, 1, 0, n_rows, n_partial});
    }
    return n_partial;
  }
  // Large blocks read keys and values fewer times; a work is still cut into a few.
  const int64_t quarter = n_rows / 4 / kMinQueryBlock * kMinQueryBlock;
  const int64_t block = std::clamp(quarter, kMinQueryBlock, kMaxQueryBlock);
  for (int64_t row = 0; row < n_rows; row += block) {
    const int64_t n = std::min(block, n_rows - row);
    scratch.tasks.push_back({&work, first_chunk, n_chunks, row, n, n_partial});
    n_partial += n_chunks > 1 ? 2 * n : n;
  }
  return n_partial;
}

// Adds to the rows of the state from state_row on.
void attend_chunk(const Task& task, const Chunk& chunk, std::span<const RowRange> ranges, float softmax_scale,
                  AttentionState& state, int64_t state_row) {
  const AttendPart& part = *chunk.part;
  const int64_t head_dim = task.work->queries.size(1);
  const int64_t* visible = part.visible.empty() ? nullptr : part.visible.data() + task.first_row;
  if (visible && *std::max_element(visible, visible + task.n_rows) <= ranges.front().begin) return;
  kernels().attend({.queries = task.work->queries.f32() + task.first_row * head_dim,
                    .n_queries = task.n_rows,
                    .dim = head_dim,
                    .scale = softmax_scale,
                    .keys = part.keys.data(),
                    .values = part.values.data(),
                    .dtype = part.keys.dtype(),
                    .ranges = ranges.data(),
                    .n_ranges = std::ssize(ranges),
                    .visible = visible,
                    .row_bias = nullptr,
                    .acc = state.acc.f32() + state_row * head_dim,
                    .max = state.max.data() + state_row,
                    .sum = state.sum.data() + state_row,
                    .key_scales = part.key_scales.data(),
                    .value_scales = part.value_scales.data()});
}

void run(const Task& task, float softmax_scale, AttendScratch& scratch) {
  AttentionState& partial = scratch.partial;
  for (size_t i = 0; i < task.n_chunks; ++i) {
    const Chunk& chunk = scratch.chunks[task.first_chunk + i];
    const std::span<const RowRange> ranges(scratch.ranges.data() + chunk.first_range, chunk.n_ranges);
    // A fresh state per chunk keeps float32 sums short, however long the context.
    const int64_t own = task.first_partial + (i == 0 ? 0 : task.n_rows);
    partial.clear(own, task.n_rows);
    attend_chunk(task, chunk, ranges, softmax_scale, partial, own);
    if (i > 0) partial.merge_rows(partial, own, task.n_rows, task.first_partial);
  }
}

void check_part(const AttendPart& part, const AttendWork& work) {
  const auto n_queries = static_cast<size_t>(work.queries.size(0));
  const int64_t n_rows = part.keys.size(0);
  if (part.keys.shape() != part.values.shape() || part.keys.dtype() != part.values.dtype() ||
      part.keys.size(1) != work.queries.size(1)) {
    fail("attention: queries {}, keys {} ({}) and values {} ({}) do not fit together", work.queries.shape().str(),
         part.keys.shape().str(), name_of(part.keys.dtype()), part.values.shape().str(), name_of(part.values.dtype()));
  }
  const size_t n_scales = part.keys.dtype() == DType::i8 ? static_cast<size_t>(n_rows) : 0;
  if (part.key_scales.size() != n_scales || part.value_scales.size() != n_scales) {
    fail("attention: {} rows of {} need {} scales, found {} of keys and {} of values", n_rows,
         name_of(part.keys.dtype()), n_scales, part.key_scales.size(), part.value_scales.size());
  }
  if (!part.visible.empty() && part.visible.size() != n_queries) {
    fail("attention: {} query rows, but the visible rows of {} are given", n_queries, part.visible.size());
  }
  for (const RowRange& range : part.ranges) {
    if (range.begin < 0 || range.end < range.begin || range.end > n_rows) {
      fail("attention: rows [{}, {}) do not lie in [0, {})", range.begin, range.end, n_rows);
    }
  }
}

void check(const AttendWork& work, const AttentionState& state, int64_t head_dim) {
  if (work.queries.dtype() != DType::f32 || work.queries.shape() != state.acc.shape()) {
    fail("attention: expected f32 queries {}, found {} {}", state.acc.shape().str(), name_of(work.queries.dtype()),
         work.queries.shape().str());
  }
  if (work.queries.size(1) != head_dim) {
    fail("attention: queries of {} and of {} dimensions in one call", head_dim, work.queries.size(1));
  }
  if (work.queries.size(1) > kMaxHeadDim) {
    fail("attention: a head dimension of at most {} is supported, found {}", kMaxHeadDim, work.queries.size(1));
  }
  for (const AttendPart& part : work.parts) check_part(part, work);
}

}  // namespace

void AttendWork::reserve(const HeadView& head, int64_t n_rows) {
  if (parts.empty()) parts.emplace_back();
  parts[0].ranges.reserve(max_ranges(head) + 2);
  rest.reserve(head, n_rows);
}

void AttendScratch::reserve(std::span<const HeadView> heads, int64_t n_rows) {
  size_t n_ranges = 0, n_chunks = 0;
  for (const HeadView& head : heads) {
    const AttendPart part{head.keys, head.values, {}, {}, head.key_scales, head.value_scales};
    n_ranges += max_ranges(head) + 3;
    n_chunks +=
        static_cast<size_t>(head.n_tokens() / chunk_rows(part, n_rows) + 2);  // the last of the head, and the tail's
  }
  ranges.reserve(n_ranges + n_chunks);  // a chunk may begin within a range
  chunks.reserve(n_chunks);
  tasks.reserve(n_chunks);
  first_task.reserve(heads.size() + 1);
  partial.resize(static_cast<int64_t>(n_chunks) * n_rows, heads.front().keys.size(1));
  if (rest.size() < heads.size()) rest.resize(heads.size());
  for (size_t i = 0; i < heads.size(); ++i) rest[i].reserve(heads[i], n_rows);
}

void attend_parts(std::span<const AttendWork> work, float softmax_scale, std::span<AttentionState> states,
                  AttendScratch& scratch) {
  scratch.ranges.clear();
  scratch.chunks.clear();
  scratch.tasks.clear();
  scratch.first_task.assign(1, 0);
  if (work.empty()) return;
  const int64_t head_dim = work.front().queries.size(1);
  int64_t n_partial = 0;
  for (size_t i = 0; i < work.size(); ++i) {
    check(work[i], states[i], head_dim);
    const size_t first_chunk = scratch.chunks.size();
    for (const AttendPart& part : work[i].parts) append_chunks(part, work[i].queries.size(0), scratch);
    n_partial = append_tasks(work[i], first_chunk, n_partial, work.size() >= kManyWorks, scratch);
    scratch.first_task.push_back(scratch.tasks.size());
  }
  scratch.partial.resize(n_partial, head_dim);
  if (scratch.rest.size() < work.size()) scratch.rest.resize(work.size());
  parallel_for(std::ssize(scratch.tasks),
               [&](int64_t task) { run(scratch.tasks[static_cast<size_t>(task)], softmax_scale, scratch); });
  parallel_for(std::ssize(work), [&](int64_t item) {
    const auto i = static_cast<size_t>(item);
    for (size_t t = scratch.first_task[i]; t < scratch.first_task[i + 1]; ++t) {
      const Task& task = scratch.tasks[t];
      states[i].merge_rows(scratch.partial, task.first_partial, task.n_rows, task.first_row);
    }
    attend_rest(work[i].rest, states[i], scratch.rest[i]);
  });
}

void attend_parts(std::span<const AttendWork> work, float softmax_scale, std::span<AttentionState> states) {
  AttendScratch scratch;
  attend_parts(work, softmax_scale, states, scratch);
}

}  // namespace squeeze
