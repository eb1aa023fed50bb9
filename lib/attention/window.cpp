// Selects the rows of the most recent tokens.
#include "lib/attention/window.hpp"

#include <utility>

#include "lib/attention/key_choice.hpp"

namespace squeeze {
namespace {

Selection most_recent(const HeadView& head, int64_t n_keys) {
  const auto window_begin = static_cast<int32_t>(head.n_tokens() - head.n_window);
  std::vector<int32_t> rows;
  for (int32_t row = head.n_sinks; row < window_begin; ++row) {
    if (head.token_of_row[static_cast<size_t>(row)] >= window_begin - n_keys) rows.push_back(row);
  }
  return select_rows(std::move(rows));
}

}  // namespace

Policy window_policy(double keys) {
  check_key_count("window", keys);
  return [keys](int, int, const HeadView& head, TensorView, int64_t, LookupScratch&) {
    if (head.n_clustered() == 0) return everything(head);
    return most_recent(head, key_count(keys, head.n_clustered()));
  };
}

}  // namespace squeeze
