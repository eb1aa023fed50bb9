// Numbers of keys, mean softmax weights, and rows as ranges.
#include "lib/attention/key_choice.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "lib/attention/partition.hpp"
#include "lib/core/error.hpp"

namespace squeeze {
namespace {

constexpr int64_t kLogitRows = 8;  // query rows whose logits are held at once

void add_softmax(const float* logits, std::vector<double>& sums) {
  const double max = *std::max_element(logits, logits + sums.size());
  std::vector<double> weights(sums.size());
  double total = 0;
  for (size_t i = 0; i < sums.size(); ++i) total += weights[i] = std::exp(double{logits[i]} - max);
  if (!std::isfinite(total)) fail("selection: a logit is not finite; the queries or the index are damaged");
  for (size_t i = 0; i < sums.size(); ++i) sums[i] += weights[i] / total;
}

}  // namespace

int64_t key_count(double value, int64_t n_clustered) {
  const double keys = value <= 1 ? std::max(1.0, value * static_cast<double>(n_clustered)) : value;
  return std::llround(std::min(keys, static_cast<double>(n_clustered)));
}

double check_key_count(const char* policy, double value) {
  if (!(value > 0 && std::isfinite(value))) {
    fail("{}: expected a share of the clustered keys (above 0, up to 1) or a number of keys (above 1), found {}",
         policy, value);
  }
  return value;
}

std::vector<double> mean_softmax(int64_t n_rows, int64_t n,
                                 const std::function<void(int64_t begin, int64_t end, float* out)>& fill) {
  std::vector<double> sums(static_cast<size_t>(n), 0.0);
  std::vector<float> logits(static_cast<size_t>(std::min(kLogitRows, n_rows) * n));
  for (int64_t begin = 0; begin < n_rows && n > 0; begin += kLogitRows) {
    const int64_t end = std::min(n_rows, begin + kLogitRows);
    fill(begin, end, logits.data());
    for (int64_t i = 0; i < end - begin; ++i) add_softmax(logits.data() + i * n, sums);
  }
  for (double& sum : sums) sum /= static_cast<double>(n_rows);
  return sums;
}

std::vector<int32_t> best_first(const std::vector<double>& weights) {
  std::vector<int32_t> order(weights.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return weights[static_cast<size_t>(a)] > weights[static_cast<size_t>(b)];
  });
  return order;
}

Selection select_rows(std::vector<int32_t> rows) {
  std::sort(rows.begin(), rows.end());
  Selection selection;
  for (const int32_t row : rows) append_range(selection.ranges, {row, row + 1});
  selection.n_keys = static_cast<int64_t>(rows.size());
  return selection;
}

}  // namespace squeeze
