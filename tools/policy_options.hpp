// The options that choose what is read of the context, and the policy that they name.
#pragma once

#include <string>

#include "lib/attention/context_attention.hpp"

namespace CLI {
class App;
}

namespace squeeze {

struct PolicyOptions {
  double sparsity = 0.9;
  double threshold = -1;  // below 0: not given
  int64_t top_k = 0;      // 0: not given
  double top_p = 0;       // 0: not given
  bool dense = false;
  std::string rest = "drop";

  Rest rest_mode() const { return rest == "mean" ? Rest::mean : Rest::drop; }
  std::string describe() const;  // "sparsity 0.9", "dense", ...
};

void bind_policy(CLI::App& app, PolicyOptions& options);

// The policy of lib/attention/policy.hpp's table that the options name.
Policy make_policy(const PolicyOptions& options, const Calibration& calibration, float softmax_scale);

}  // namespace squeeze
