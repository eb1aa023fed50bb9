// The summary of a run of squeeze-run: sums over its answers.
#pragma once

#include <string>

#include "lib/attention/usage.hpp"
#include "lib/model/score.hpp"

namespace squeeze {

struct RunStats {
  std::string rule, rest, precision, device = "cpu";
  int64_t n_requests = 0, n_errors = 0;
  int64_t n_tokens = 0;   // generated
  int64_t n_decoded = 0;  // generated, and completion tokens given
  int64_t n_graded = 0, n_correct = 0;
  double prefill_ms = 0, decode_ms = 0;
  int64_t batch = 1;          // requests that could be answered at a time
  double decode_pass_ms = 0;  // of the forward passes of generated tokens,
  int64_t n_in_passes = 0;    // so many in all
  Usage usage;
  TokenScores completion, prompt;  // of the scored requests
  double seconds = 0;
};

// Writes one JSON object to a file, or to standard error for "-"; nowhere if the path is empty.
void write_stats(const std::string& path, const RunStats& stats);

}  // namespace squeeze
