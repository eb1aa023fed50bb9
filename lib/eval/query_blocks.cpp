// Gathers the queries of a block, and what each of them may see.
#include "lib/eval/query_blocks.hpp"

#include <algorithm>

#include "lib/core/error.hpp"

namespace squeeze {
namespace {

QueryBlock make_block(const HeadView& head, int kv_head, int64_t group_size, const RecordedQueries& recorded,
                      int64_t begin, int64_t end) {
  const int64_t head_dim = recorded.queries.size(2);
  QueryBlock block{kv_head, &head, Tensor(DType::f32, {(end - begin) * group_size, head_dim}), end - begin, {}, {}};
  const int64_t n_tail = recorded.tail_keys.data() ? recorded.tail_keys.size(1) : 0;
  if (n_tail > 0) {
    block.tail.push_back({recorded.tail_keys[kv_head], recorded.tail_values[kv_head], {}, {}});
    block.tail[0].ranges.push_back({0, static_cast<int32_t>(n_tail)});
  }
  float* out = block.queries.f32();
  for (int64_t t = begin; t < end; ++t) {
    const int64_t n_seen = int64_t{recorded.positions[static_cast<size_t>(t)]} + 1;
    for (int64_t g = 0; g < group_size; ++g, out += head_dim) {
      const TensorView query = recorded.queries[kv_head * group_size + g][t];
      kernels().to_f32(query.data(), query.dtype(), head_dim, out);
      block.visible_tokens.push_back(std::min(n_seen, head.n_tokens()));
      if (n_tail > 0) block.tail[0].visible.push_back(std::max<int64_t>(0, n_seen - head.n_tokens()));
    }
  }
  return block;
}

void check(const std::vector<HeadView>& heads, const RecordedQueries& recorded, int64_t block_size) {
  const auto n_heads = static_cast<int64_t>(heads.size());
  const TensorView queries = recorded.queries;
  if (block_size < 1) fail("replay: the block size must be at least 1, found {}", block_size);
  if (n_heads == 0 || queries.shape().rank() != 3 || queries.size(0) == 0 || queries.size(0) % n_heads != 0 ||
      queries.size(1) != static_cast<int64_t>(recorded.positions.size()) || queries.size(2) != heads[0].keys.size(1)) {
    fail("replay: queries {} at {} positions do not fit {} KV heads", queries.shape().str(), recorded.positions.size(),
         n_heads);
  }
  const TensorView tail = recorded.tail_keys;
  if (!tail.data()) return;
  if (tail.shape() != recorded.tail_values.shape() || tail.shape().rank() != 3 || tail.size(0) != n_heads) {
    fail("replay: tail keys {} and values {} do not fit {} KV heads", tail.shape().str(),
         recorded.tail_values.shape().str(), n_heads);
  }
  for (const int32_t position : recorded.positions) {
    if (position >= heads[0].n_tokens() + tail.size(1)) {
      fail("replay: a query at position {}, but only {} context and {} question tokens", position, heads[0].n_tokens(),
           tail.size(1));
    }
  }
}

}  // namespace

QueryBlocks::QueryBlocks(const std::vector<HeadView>& heads, const RecordedQueries& recorded, int64_t block_size)
    : heads_(heads), recorded_(recorded), block_size_(block_size) {
  check(heads, recorded, block_size);
  n_blocks_ = (recorded.queries.size(1) + block_size - 1) / block_size;
}

QueryBlock QueryBlocks::at(int64_t i) const {
  const int64_t begin = i % n_blocks_ * block_size_;
  const int64_t end = std::min(begin + block_size_, recorded_.queries.size(1));
  const int64_t group_size = recorded_.queries.size(0) / static_cast<int64_t>(heads_.size());
  return make_block(heads_[static_cast<size_t>(kv_head(i))], kv_head(i), group_size, recorded_, begin, end);
}

}  // namespace squeeze
