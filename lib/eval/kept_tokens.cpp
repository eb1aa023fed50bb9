// Counts selections per token.
#include "lib/eval/kept_tokens.hpp"

#include "lib/attention/lookup_scratch.hpp"
#include "lib/core/parallel.hpp"

namespace squeeze {
namespace {

void count_rows(const HeadView& head, RowRange rows, std::vector<int64_t>& n_kept) {
  for (int32_t row = rows.begin; row < rows.end; ++row) {
    ++n_kept[static_cast<size_t>(head.token_of_row[static_cast<size_t>(row)])];
  }
}

}  // namespace

void KeptTokens::add(const KeptTokens& other) {
  n_lookups += other.n_lookups;
  n_kept.resize(other.n_kept.size());
  for (size_t i = 0; i < n_kept.size(); ++i) n_kept[i] += other.n_kept[i];
}

KeptTokens count_kept_tokens(int layer, const std::vector<HeadView>& heads, const RecordedQueries& recorded,
                             const Policy& policy, int64_t block_size) {
  const QueryBlocks blocks(heads, recorded, block_size);
  std::vector<Selection> selections(static_cast<size_t>(blocks.size()));
  parallel_for(blocks.size(), [&](int64_t i) {
    const QueryBlock block = blocks.at(i);
    LookupScratch scratch;
    selections[static_cast<size_t>(i)] =
        policy(layer, block.kv_head, *block.head, block.queries, block.n_tokens, scratch);
  });
  KeptTokens kept{blocks.size(), std::vector<int64_t>(static_cast<size_t>(heads[0].n_tokens()))};
  for (int64_t i = 0; i < blocks.size(); ++i) {
    const HeadView& head = heads[static_cast<size_t>(blocks.kv_head(i))];
    const auto n_tokens = static_cast<int32_t>(head.n_tokens());
    count_rows(head, {0, head.n_sinks}, kept.n_kept);
    for (const RowRange& rows : selections[static_cast<size_t>(i)].ranges) count_rows(head, rows, kept.n_kept);
    count_rows(head, {n_tokens - head.n_window, n_tokens}, kept.n_kept);
  }
  return kept;
}

}  // namespace squeeze
