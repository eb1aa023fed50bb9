// Cuts attention into chunks of rows and blocks of queries, runs them in parallel and merges their states in order.
#include "lib/attention/partition.hpp"

#include <algorithm>

#include "lib/core/error.hpp"
#include "lib/core/parallel.hpp"

namespace squeeze {
namespace {

constexpr int64_t kChunkBytes = 256 << 10;  // keys and values of a chunk: half of a small L2 cache
constexpr int64_t kMinChunkRows = 64;
constexpr int64_t kMinQueryBlock = 32;  // query rows of a task when there are many
constexpr int64_t kMaxQueryBlock = 128;
constexpr size_t kManyWorks = 64;    // enough tasks without cutting a work's chunks apart

// Consecutive ranges of one part, at most a chunk's number of rows.
struct Chunk {
  const AttendPart* part;
  std::vector<RowRange> ranges;
};

// Some query rows of one work against some of its chunks.
struct Task {
  const AttendWork* work;
  std::span<const Chunk> chunks;
  int64_t first_row;
  int64_t n_rows;
};

int64_t chunk_rows(const AttendPart& part) {
  const int64_t row_bytes =
      ScaledRows{part.keys, part.key_scales}.row_bytes() + ScaledRows{part.values, part.value_scales}.row_bytes();
  return std::max(kMinChunkRows, kChunkBytes / std::max<int64_t>(1, row_bytes));
}

void append_chunks(const AttendPart& part, std::vector<Chunk>& chunks) {
  const int64_t limit = chunk_rows(part);
  int64_t room = 0;
  for (RowRange range : part.ranges) {
    while (range.begin < range.end) {
      if (room == 0) {
        chunks.push_back({&part, {}});
        room = limit;
      }
      const auto n = static_cast<int32_t>(std::min<int64_t>(room, range.end - range.begin));
      chunks.back().ranges.push_back({range.begin, range.begin + n});
      range.begin += n;
      room -= n;
    }
  }
}

void append_tasks(const AttendWork& work, std::span<const Chunk> chunks, bool is_one_of_many,
                  std::vector<Task>& tasks) {
  const int64_t n_rows = work.queries.size(0);
  if (chunks.empty()) return;
  if (n_rows < 2 * kMinQueryBlock && !is_one_of_many) {
    for (size_t i = 0; i < chunks.size(); ++i) tasks.push_back({&work, chunks.subspan(i, 1), 0, n_rows});
    return;
  }
  // Large blocks read keys and values fewer times; a work is still cut into a few.
  const int64_t quarter = n_rows / 4 / kMinQueryBlock * kMinQueryBlock;
  const int64_t block = std::clamp(quarter, kMinQueryBlock, kMaxQueryBlock);
  for (int64_t row = 0; row < n_rows; row += block) {
    tasks.push_back({&work, chunks, row, std::min(block, n_rows - row)});
  }
}

void attend_chunk(const Task& task, const Chunk& chunk, float softmax_scale, AttentionState& state) {
  const AttendPart& part = *chunk.part;
  const int64_t head_dim = task.work->queries.size(1);
  const int64_t* visible = part.visible.empty() ? nullptr : part.visible.data() + task.first_row;
  if (visible && *std::max_element(visible, visible + task.n_rows) <= chunk.ranges.front().begin) return;
  kernels().attend({.queries = task.work->queries.f32() + task.first_row * head_dim,
                    .n_queries = task.n_rows,
                    .dim = head_dim,
                    .scale = softmax_scale,
                    .keys = part.keys.data(),
                    .values = part.values.data(),
                    .dtype = part.keys.dtype(),
                    .ranges = chunk.ranges.data(),
                    .n_ranges = static_cast<int64_t>(chunk.ranges.size()),
                    .visible = visible,
                    .row_bias = nullptr,
                    .acc = state.acc.f32(),
                    .max = state.max.data(),
                    .sum = state.sum.data(),
                    .key_scales = part.key_scales.data(),
                    .value_scales = part.value_scales.data()});
}

AttentionState run(const Task& task, float softmax_scale) {
  const int64_t head_dim = task.work->queries.size(1);
  AttentionState state(task.n_rows, head_dim);
  attend_chunk(task, task.chunks.front(), softmax_scale, state);
  for (const Chunk& chunk : task.chunks.subspan(1)) {
    // A fresh state per chunk keeps float32 sums short, however long the context.
    AttentionState partial(task.n_rows, head_dim);
    attend_chunk(task, chunk, softmax_scale, partial);
    state.merge(partial);
  }
  return state;
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

void check(const AttendWork& work, const AttentionState& state) {
  if (work.queries.dtype() != DType::f32 || work.queries.shape() != state.acc.shape()) {
    fail("attention: expected f32 queries {}, found {} {}", state.acc.shape().str(), name_of(work.queries.dtype()),
         work.queries.shape().str());
  }
  if (work.queries.size(1) > kMaxHeadDim) {
    fail("attention: a head dimension of at most {} is supported, found {}", kMaxHeadDim, work.queries.size(1));
  }
  for (const AttendPart& part : work.parts) check_part(part, work);
}

}  // namespace

void attend_parts(std::span<const AttendWork> work, float softmax_scale, std::span<AttentionState> states) {
  std::vector<std::vector<Chunk>> chunks(work.size());
  std::vector<Task> tasks;
  std::vector<size_t> first_task{0};
  for (size_t i = 0; i < work.size(); ++i) {
    check(work[i], states[i]);
    for (const AttendPart& part : work[i].parts) append_chunks(part, chunks[i]);
    append_tasks(work[i], chunks[i], work.size() >= kManyWorks, tasks);
    first_task.push_back(tasks.size());
  }
  std::vector<AttentionState> partial(tasks.size());
  parallel_for(static_cast<int64_t>(tasks.size()), [&](int64_t task) {
    const auto i = static_cast<size_t>(task);
    partial[i] = run(tasks[i], softmax_scale);
  });
  parallel_for(static_cast<int64_t>(work.size()), [&](int64_t item) {
    const auto i = static_cast<size_t>(item);
    for (size_t t = first_task[i]; t < first_task[i + 1]; ++t) states[i].merge(partial[t], tasks[t].first_row);
    attend_rest(work[i].rest, states[i]);
  });
}

void append_range(std::vector<RowRange>& ranges, RowRange range) {
  if (range.begin >= range.end) return;
  if (!ranges.empty() && ranges.back().end == range.begin) {
    ranges.back().end = range.end;
  } else {
    ranges.push_back(range);
  }
}

}  // namespace squeeze
