// Tokens as text, and counts of the lookups that read them.
#include "tools/report_text.hpp"

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>

#include "formats/hf_model.hpp"
#include "lib/core/error.hpp"
#include "lib/eval/kept_tokens.hpp"
#include "lib/model/token_texts.hpp"

namespace squeeze {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kMaxProbes = 12;
constexpr int64_t kWindowRuns = 4;

KeptTokens count_kept(const ReplaySource& source, const Policy& policy,
                      const std::function<LayerQueries(int layer)>& queries) {
  const ContextView view = source.index.view();
  KeptTokens kept;
  for (int layer = 0; layer < view.model.n_layers; ++layer) {
    const LayerQueries recorded = queries(layer);
    kept.add(
        count_kept_tokens(layer, view.layers[static_cast<size_t>(layer)], recorded.view(), policy, source.block_size));
  }
  return kept;
}

void add_counts(const KeptTokens& kept, Json& question) {
  question["n_lookups"] = kept.n_lookups;
  question["kept"] = kept.n_kept;
}

Json probe_question(const ReplaySource& source, const Policy& policy, int probe) {
  Json question = {
      {"kind", "probe"}, {"text", source.dump.probe_text(probe)}, {"n_tokens", source.dump.probe_tokens(probe).size()}};
  add_counts(count_kept(source, policy, [&](int layer) { return probe_queries(source, layer, probe); }), question);
  return question;
}

// The window's recorded queries [begin, end).
Json window_question(const ReplaySource& source, const Policy& policy, int64_t begin, int64_t end) {
  const auto run = [&](int layer) {
    const LayerQueries all = window_queries(source, layer);
    return LayerQueries{
        slice_dim1(all.queries, begin, end), {all.positions.begin() + begin, all.positions.begin() + end}, {}, {}};
  };
  Json question = {{"kind", "window"}, {"first_token", run(0).positions.front()}, {"n_tokens", end - begin}};
  add_counts(count_kept(source, policy, run), question);
  return question;
}

std::vector<std::string> texts_of(const KvIndex& index, const std::string& directory) {
  const HfModel model(directory);
  if (model.info().model_fingerprint != index.context().model.model_fingerprint) {
    fail("{}: not the model that {} was built with (fingerprints {} and {})", directory, index.path(),
         model.info().model_fingerprint, index.context().model.model_fingerprint);
  }
  return token_texts(model.tokenizer(), index.context().tokens);
}

}  // namespace

Json report_tokens(const KvIndex& index, const std::string& model) {
  Json text = {{"kind", model.empty() ? "ids" : "text"},
               {"n_sinks", index.options().n_sinks},
               {"n_window", index.options().n_window}};
  if (model.empty()) {
    text["tokens"] = index.context().tokens;
  } else {
    text["tokens"] = texts_of(index, model);
  }
  return text;
}

Json report_questions(const ReplaySource& source, const Policy& policy) {
  Json questions = Json::array();
  for (int probe = 0; probe < std::min(kMaxProbes, source.dump.n_probes()); ++probe) {
    questions.push_back(probe_question(source, policy, probe));
  }
  const auto n_queries = std::ssize(window_queries(source, 0).positions);
  const int64_t run = (n_queries + kWindowRuns - 1) / kWindowRuns;
  for (int64_t begin = 0; begin < n_queries; begin += run) {
    questions.push_back(window_question(source, policy, begin, std::min(n_queries, begin + run)));
  }
  return questions;
}

}  // namespace squeeze
