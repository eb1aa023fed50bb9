// Requests as calls of the library.
#include "tools/session.hpp"

#include <algorithm>

#include "lib/attention/cuda_attention.hpp"
#include "lib/core/elapsed.hpp"
#include "tools/context_source.hpp"

namespace squeeze {
namespace {

// Before the weights go anywhere.
HfModel checked_model(const std::string& path, const KvIndex& index) {
  HfModel model(path);
  const std::string found = model.info().model_fingerprint;
  const std::string& expected = index.context().model.model_fingerprint;
  if (found != expected) {
    fail(
        "{}: the index was built with another model (its fingerprint is {}, this model's {}); name the model that "
        "it was built with",
        path, expected, found);
  }
  return model;
}

}  // namespace

Session::Session(const AnswerOptions& options, const CommonOptions& common, const KvIndex& index,
                 const PolicyOptions& policy)
    : options_(options),
      maker_(attention_maker(policy, index, common)),
      model_(checked_model(options.model, index)),
      tokenizer_(model_.tokenizer()),
      transformer_(model_.config(), model_.weights(),
                   operations_for(options.precision, common.cuda(), !common.no_graph)),
      view_(index.view()),
      n_context_(index.context().n_tokens()) {
  transformer_.set_sequence_length(n_context_);
  attention_ = maker_(transformer_.operations(), view_, static_cast<size_t>(options.batch));
  const int64_t most = kMostCudaRows / view_.model.group_size();
  if (common.cuda() && (policy.query_block == 0 || policy.query_block > most)) {
    note(common, fmt::format("--query-block {}: on a CUDA device up to {} tokens of this model share a selection",
                             policy.query_block, most));
  }
}

std::string Session::prompt_of(const Request& request) const {
  std::string text = options_.prompt_template;
  return text.replace(text.find("{prompt}"), 8, request.prompt);
}

Generating Session::start(size_t slot, const Request& request) {
  TailAttention& attention = *attention_.chosen[slot];
  attention.clear_tail();
  const AnswerOptions& o = options_;
  const std::vector<int32_t> prompt = tokenizer_.encode(prompt_of(request), false);
  GenerateOptions options;
  options.sampling = {o.temperature, o.sample_top_k, o.sample_top_p, request.seed.value_or(o.seed)};
  options.max_tokens = request.max_tokens.value_or(o.max_tokens.value_or(AnswerOptions::kMaxTokens));
  options.stop = o.stop;
  options.stop.insert(options.stop.end(), request.stop.begin(), request.stop.end());
  options.stop_tokens = model_.config().eos_tokens;
  options.chunk = o.chunk;
  return Generating(transformer_, tokenizer_, attention, prompt, n_context_, options);
}

double Session::step(const std::vector<Generating*>& requests) {
  const auto start = std::chrono::steady_clock::now();
  std::vector<SequenceToken> tokens;
  for (const Generating* request : requests) tokens.push_back(request->next());
  if (std::ranges::all_of(requests, &Generating::greedy)) {
    const std::span<const int32_t> chosen = transformer_.greedy_each(tokens);
    const double ms = ms_since(start);
    for (size_t i = 0; i < requests.size(); ++i) requests[i]->take(chosen[i], ms);
    return ms;
  }
  const TensorView logits = transformer_.forward_each(tokens);
  const double ms = ms_since(start);
  for (size_t i = 0; i < requests.size(); ++i) {
    const TensorView row = logits[static_cast<int64_t>(i)];
    requests[i]->take({row.f32(), static_cast<size_t>(row.n_elements())}, ms);
  }
  return ms;
}

ScoredAnswer Session::score(size_t slot, const Request& request, const std::string& completion,
                            const Progress& progress) {
  TailAttention& attention = *attention_.chosen[slot];
  attention.clear_tail();
  attention_.dense->clear_tail();
  GivenTokens given = encode_given(tokenizer_, prompt_of(request), completion);
  const size_t limit = request.max_tokens ? static_cast<size_t>(*request.max_tokens) : given.completion.size();
  given.completion.resize(std::min(given.completion.size(), limit));
  const ScoringOptions& scoring = options_.scoring;
  Score scores = squeeze::score(transformer_, given, n_context_, {options_.chunk, scoring.chunk, progress}, attention,
                                scoring.compare_dense ? attention_.dense.get() : nullptr);
  return {request.id_json,   std::move(given.completion), std::ssize(given.prompt),
          std::move(scores), usage(slot).budget(),        usage(slot).kept()};
}

}  // namespace squeeze
