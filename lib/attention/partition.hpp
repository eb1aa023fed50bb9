// The work of attention for a block of queries per KV head, cut into pieces for threads: several arrays of keys and
// values (context, dropped clusters, tail), each with the rows to be read.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/kernels.hpp"
#include "lib/attention/attention_state.hpp"
#include "lib/attention/rest_part.hpp"
#include "lib/core/tensor.hpp"

namespace squeeze {

// Rows of one array of keys and values.
struct AttendPart {
  TensorView keys;    // [*, head_dim]
  TensorView values;  // same shape and dtype
  std::vector<RowRange> ranges;
  std::vector<int64_t> visible;            // per query row, the rows below it may be seen; empty: all
  std::span<const float> key_scales = {};  // [*] if keys and values are i8
  std::span<const float> value_scales = {};
};

// One KV head: its queries attend to the union of the parts' rows.
struct AttendWork {
  TensorView queries;  // f32 [n_rows, head_dim]
  std::vector<AttendPart> parts;
  RestPart rest = {};  // added last

  // Makes room for any selection of this head, by n_rows query rows, as part 0.
  void reserve(const HeadView& head, int64_t n_rows);
};

// What attend_parts computes in, kept from one call to the next.
struct AttendScratch {
  struct Chunk {  // consecutive ranges of one part, at most a chunk's number of rows
    const AttendPart* part;
    size_t first_range, n_ranges;  // among `ranges`
  };
  struct Task {  // some query rows of one work against some of its chunks
    const AttendWork* work;
    size_t first_chunk, n_chunks;
    int64_t first_row, n_rows;
    int64_t first_partial;  // its rows of `partial`; as many again follow for a chunk's own sums if it has several
  };
  std::vector<RowRange> ranges;
  std::vector<Chunk> chunks;
  std::vector<Task> tasks;
  std::vector<size_t> first_task;  // per work, then the number of tasks
  AttentionState partial;
  std::vector<RestScratch> rest;  // per work

  // Makes room for a work per head, any selection of it and a short tail, by n_rows query rows each.
  void reserve(std::span<const HeadView> heads, int64_t n_rows);
};

// Adds all work to the states, one per work. Rows are summed in chunks of about the same number of bytes whose states
// are merged in order; few query rows (decode): threads share the chunks; many, or many works (prefill): they share the
// query rows. The pieces depend on sizes only, so the result is the same for any number of threads.
void attend_parts(std::span<const AttendWork> work, float softmax_scale, std::span<AttentionState> states,
                  AttendScratch& scratch);
void attend_parts(std::span<const AttendWork> work, float softmax_scale, std::span<AttentionState> states);

// Appends a range, joined to the last one if they touch; empty ranges are left out.
inline void append_range(std::vector<RowRange>& ranges, RowRange range) {
  if (range.begin >= range.end) return;
  if (!ranges.empty() && ranges.back().end == range.begin) {
    ranges.back().end = range.end;
  } else {
    ranges.push_back(range);
  }
}

}  // namespace squeeze
