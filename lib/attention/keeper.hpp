// The items (clusters, keys) of a block that survive a cut of their scores.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lib/attention/block_scores.hpp"

namespace squeeze {

// Owns its buffers: what a call returns, 0 or 1 per item, is valid until the next call.
class Keeper {
 public:
  void reserve(int64_t n_items);
  const std::vector<char>& all(int64_t n);
  // The items that survive in any view: those whose score exceeds the threshold.
  const std::vector<char>& above(const BlockScores& scores, float threshold);
  // The best items as long as they hold at most max_keys keys together (views share them equally, the first ones get
  // what is left over). At least the best one of each view that gets any survives; skip_large: an item that does not
  // fit is passed over, not the end. Equal scores: the lower item first. sizes: keys of each item; empty: one each.
  const std::vector<char>& best(const BlockScores& scores, std::span<const float> sizes, int64_t max_keys,
                                bool skip_large = false);
  // The same of single items, as their numbers, ascending.
  std::span<const int32_t> best_singles(const BlockScores& scores, int64_t max_items);
  // The numbers of the items that are kept, ascending.
  std::span<const int32_t> numbers(const std::vector<char>& keep);
  // The best items until their estimated mass reaches `mass`.
  const std::vector<char>& mass(const BlockScores& scores, std::span<const float> sizes, double mass);

 private:
  struct Item {
    uint32_t key;  // ascends where scores descend
    int32_t number;
  };
  template <class Take>
  void for_best(std::span<const float> scores, const Take& take);
  void sort_by_score(std::span<const float> scores);
  void find_from(std::span<const float> scores, float least);
  void find_best(std::span<const float> scores, int64_t count);

  std::vector<char> keep_;
  std::vector<Item> items_, sorted_;
  std::vector<int32_t> found_;
  std::vector<uint32_t> bits_, middle_;
};

}  // namespace squeeze
