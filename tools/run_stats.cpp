// The summary as JSON.
#include "tools/run_stats.hpp"

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "formats/score_json.hpp"
#include "lib/core/error.hpp"

namespace squeeze {
namespace {

using Json = nlohmann::ordered_json;

Json json_of(const RunStats& s) {
  const double n_answered = double(std::max<int64_t>(1, s.n_requests - s.n_errors));
  Json json = {{"rule", s.rule},
               {"rest", s.rest},
               {"precision", s.precision},
               {"device", s.device},
               {"n_requests", s.n_requests},
               {"n_errors", s.n_errors},
               {"n_tokens", s.n_tokens},
               {"budget", s.usage.budget()},
               {"kept", s.usage.kept()},
               {"measured_sparsity", s.usage.sparsity()},
               {"bytes_read", s.usage.bytes_read},
               {"bytes_dense", s.usage.bytes_dense},
               {"prefill_ms", s.prefill_ms / n_answered},
               {"decode_ms_per_token", s.decode_ms / double(std::max<int64_t>(1, s.n_decoded))},
               {"batch", s.batch},
               {"decode_tokens_per_second", s.decode_pass_ms > 0 ? 1000 * double(s.n_in_passes) / s.decode_pass_ms : 0},
               {"seconds", s.seconds}};
  if (s.device == "cpu") {  // on a device they are not told apart
    json["lookup_ms"] = s.usage.lookup_ms;
    json["attention_ms"] = s.usage.attention_ms;
  } else {
    json["bytes_from_host"] = s.usage.bytes_from_host;
    if (const int64_t on_host = s.usage.bytes_from_host + s.usage.bytes_cached; on_host > 0) {
      json["cache_hit_rate"] = double(s.usage.bytes_cached) / double(on_host);
    }
  }
  if (s.n_graded > 0) {
    json["n_graded"] = s.n_graded;
    json["n_correct"] = s.n_correct;
    json["accuracy"] = double(s.n_correct) / double(s.n_graded);
  }
  if (s.completion.n_tokens() > 0) {
    add_summary(json, "", s.completion);
    add_summary(json, "prompt_", s.prompt);
  }
  return json;
}

}  // namespace

void write_stats(const std::string& path, const RunStats& stats) {
  if (path.empty()) return;
  const Json json = json_of(stats);
  if (path == "-") {
    fmt::print(stderr, "{}\n", json.dump());
    return;
  }
  std::ofstream file(path);
  file << json.dump() << '\n';
  if (!file.flush()) fail("{}: could not write the summary", path);
}

}  // namespace squeeze
