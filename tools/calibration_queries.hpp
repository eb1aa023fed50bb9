// Which recorded queries calibrate an index: the context's last ones, or those of probe questions.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lib/core/tensor.hpp"

namespace squeeze {

// "window", "probes" (all of them) or "probes:N" (the first N, so that the others can be held out).
struct CalibrationChoice {
  bool probes = false;
  int64_t n_probes = 0;  // 0: all
};
// Throws (bad usage) if the text is none of these.
CalibrationChoice parse_calibration(const std::string& text);

// Positions of the recorded queries that lie in the last n_window of n_tokens tokens. Throws, naming the source, if
// there are none.
std::vector<int32_t> window_positions(const std::string& source, std::span<const int32_t> recorded, int64_t n_tokens,
                                      int64_t n_window);

// Positions of the queries of probes of these lengths, one probe after the other, each from n_tokens on. Throws, naming
// the source, if there are fewer probes than chosen, or none.
std::vector<int32_t> probe_positions(const std::string& source, std::vector<int64_t> probe_lengths, int64_t n_tokens,
                                     const CalibrationChoice& choice);

// One after the other along the second dimension: [n_query_heads, sum of n, head_dim]; all of the same type.
Tensor joined_dim1(const std::vector<TensorView>& parts);

}  // namespace squeeze
