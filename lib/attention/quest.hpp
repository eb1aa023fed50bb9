// The Quest baseline (Tang et al., arXiv 2406.10774): pages of consecutive tokens, ranked by a bound of their logits.
#pragma once

#include <cstdint>
#include <vector>

#include "lib/attention/policy.hpp"

namespace squeeze {

inline constexpr int64_t kPageTokens = 16;  // the paper's

// Pages of the clustered tokens of one KV head, in token order; the last may be shorter.
struct Pages {
  Tensor min, max;                    // [n_pages, head_dim], per channel over the page's keys, in the keys' dtype
  std::vector<int32_t> row_of_token;  // [n_clustered], of token n_sinks + i
  std::vector<float> min_scales, max_scales;  // [n_pages] if the keys are i8: bounds are rounded as they are

  ScaledRows min_rows() const { return {min, min_scales}; }
  ScaledRows max_rows() const { return {max, max_scales}; }
  int64_t n_pages() const { return min.size(0); }
  int64_t n_bytes() const { return n_pages() * (min_rows().row_bytes() + max_rows().row_bytes()); }
};
Pages make_pages(const HeadView& head);

// scale * sum_c max(q_c min_c, q_c max_c), no smaller than the logit of any key of the page (up to rounding).
// queries: f32 [n_rows, head_dim]; scale is positive; out: [n_rows, n_pages].
void page_bounds(const Pages& pages, TensorView queries, float scale, float* out);

// The best pages as long as they hold at most `keys` keys together (see key_count), the best one in any case. For one
// query row pages are ranked by their bound, as in the paper. A block of rows (query tokens x heads of the group)
// shares one selection: by the softmax of the bounds over the pages, averaged over the rows.
// Reads the bounds of all pages. Serves one context: pages are made when a head is first asked for, and kept.
Policy quest_policy(double keys, float softmax_scale);

}  // namespace squeeze
