// What the policies that choose single keys, not clusters, have in common: how many keys, their weights, their rows.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "lib/attention/lookup.hpp"

namespace squeeze {

// The number of clustered keys that a policy's value names: up to 1 a share of them (at least one key), above 1 a
// count (at most all). check_key_count throws, naming the policy, unless the value is positive and finite.
int64_t key_count(double value, int64_t n_clustered);
double check_key_count(const char* policy, double value);

// softmax(logits) over n columns, averaged over n_rows query rows; [n]. `fill` writes the logits of the query rows
// [begin, end) to out [end - begin, n], a few rows at a time. Throws if a logit is not finite.
std::vector<double> mean_softmax(int64_t n_rows, int64_t n,
                                 const std::function<void(int64_t begin, int64_t end, float* out)>& fill);

// 0 .. weights.size() - 1, the largest weight first; equal weights: the lower index first.
std::vector<int32_t> best_first(const std::vector<double>& weights);

// The selection of these clustered rows (any order, no row twice): nothing is scored, no cluster is dropped.
Selection select_rows(std::vector<int32_t> rows);

}  // namespace squeeze
