// Recorded queries of one layer, cut into the blocks that select together.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lib/attention/context_parts.hpp"

namespace squeeze {

struct RecordedQueries {
  TensorView queries;                  // [n_query_heads, n_queries, head_dim]
  std::span<const int32_t> positions;  // [n_queries] token positions, all >= the last clustered token
  // [n_kv_heads, n_tail, head_dim], the recorded question's own: the tokens from the context's end on. May be empty:
  // then queries after the context see the context only.
  TensorView tail_keys, tail_values;
};

// One selection: consecutive query tokens of one KV head.
struct QueryBlock {
  int kv_head;
  const HeadView* head;
  Tensor queries;  // f32 [n_tokens * group_size, head_dim]
  int64_t n_tokens;
  std::vector<int64_t> visible_tokens;  // per query row, in the context
  std::vector<AttendPart> tail;         // none or one
};

// All blocks of all KV heads, each made when it is asked for. `heads` and what is recorded outlive this.
class QueryBlocks {
 public:
  // block_size: query tokens of a block; the last of a head may be shorter. Throws if shapes do not fit.
  QueryBlocks(const std::vector<HeadView>& heads, const RecordedQueries& recorded, int64_t block_size);

  int64_t size() const { return static_cast<int64_t>(heads_.size()) * n_blocks_; }
  int kv_head(int64_t i) const { return static_cast<int>(i / n_blocks_); }  // a head's blocks follow one another
  QueryBlock at(int64_t i) const;                                           // from any thread

 private:
  const std::vector<HeadView>& heads_;
  RecordedQueries recorded_;
  int64_t block_size_;
  int64_t n_blocks_;  // of each head
};

}  // namespace squeeze
