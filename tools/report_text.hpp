// The text of the HTML report: its tokens, and how often a policy reads each of them for each question.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "lib/attention/policy.hpp"
#include "tools/recorded_queries.hpp"

namespace squeeze {

// {"kind": "text" or "ids", "n_sinks", "n_window", "tokens": [...]}. model: a model directory, whose tokenizer gives
// the texts; empty: token ids. Throws if it is not the index's model.
nlohmann::ordered_json report_tokens(const KvIndex& index, const std::string& model);

// The dump's first probes, and its window in a few runs of tokens: per question a label, the number of lookups, and per
// token how many of them read it.
nlohmann::ordered_json report_questions(const ReplaySource& source, const Policy& policy);

}  // namespace squeeze
