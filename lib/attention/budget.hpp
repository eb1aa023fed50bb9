// A byte budget as a policy.
#pragma once

#include <span>

#include "lib/attention/policy.hpp"

namespace squeeze {

// Over all heads, lookups read the share `budget`, in (0, 1], of the context's keys and values, index bytes included:
// what pinned rows and centroids leave goes to sketches and keys, more of it to heads that need more keys (the
// calibration's HeadShares). rest: whether value means are read too. Throws from the lookup if the pinned rows and the
// centroids alone cost more.
Rules budget_rules(const Calibration& calibration, double budget, Rest rest);
Policy budget_policy(const Calibration& calibration, double budget, Rest rest, float softmax_scale);

// What sketches may cost of the bytes that a budget leaves for them and for keys.
double sketch_share(const SketchView& sketches);

// What a lookup under a budget reads of this head in any case: pinned rows, centroids, codebooks and (Rest::mean) value
// means, if the upper levels let through exactly their share of the clusters.
double fixed_bytes(std::span<const double> upper_keep, const HeadView& head, Rest rest);

// The least budget that this head can be read with: pinned rows, centroids and (Rest::mean) value means. 0 without
// levels.
double least_budget(const Calibration& calibration, const HeadView& head, Rest rest);

}  // namespace squeeze
