// The data of the HTML report, as one JSON object (formats/html_report.md).
#pragma once

#include <string>
#include <vector>

#include "tools/policy_options.hpp"
#include "tools/recorded_queries.hpp"

namespace squeeze {

struct ReportRequest {
  ReplaySource source;
  std::vector<NamedPolicy> chosen;  // curves beside the standard ones; the first is what the page shows first
  std::string rest = "mean";        // of the chosen ones
  std::string model;                // directory, for the tokens' texts; empty: token ids
  int n_worst = 0;                  // heads to list
};

// Replays every curve, counts what is read for each question, and describes the index.
std::string report_json(const ReportRequest& request);

}  // namespace squeeze
