// Ranks the clustered keys by their true attention.
#include "lib/attention/oracle.hpp"

#include <utility>

#include "lib/attention/key_choice.hpp"

namespace squeeze {
namespace {

std::vector<double> mean_attention(const HeadView& head, TensorView queries, float softmax_scale) {
  const int64_t n = head.n_clustered();
  return mean_softmax(queries.size(0), n, [&](int64_t begin, int64_t end, float* out) {
    head.key_rows().scores(queries.slice(begin, end), head.n_sinks, head.n_sinks + n, softmax_scale, out, n);
  });
}

}  // namespace

Policy oracle_policy(double keys, float softmax_scale) {
  check_key_count("oracle", keys);
  return [keys, softmax_scale](int, int, const HeadView& head, TensorView queries, int64_t, LookupScratch&) {
    if (head.n_clustered() == 0) return everything(head);
    std::vector<int32_t> rows = best_first(mean_attention(head, queries, softmax_scale));
    rows.resize(static_cast<size_t>(key_count(keys, head.n_clustered())));
    for (int32_t& row : rows) row += head.n_sinks;
    return select_rows(std::move(rows));
  };
}

}  // namespace squeeze
