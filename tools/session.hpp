// A model loaded beside the index whose context it attends to: what squeeze-run answers and scores with.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "formats/hf_model.hpp"
#include "formats/jsonl.hpp"
#include "formats/score_json.hpp"
#include "lib/model/generate.hpp"
#include "tools/answer_requests.hpp"
#include "tools/chosen_attention.hpp"

namespace squeeze {

// A slot holds the tail of one request: as many requests at a time as there are slots.
class Session {
 public:
  Session(const AnswerOptions& options, const CommonOptions& common, const KvIndex& index, const PolicyOptions& policy);

  // The prompt as it is encoded.
  std::string prompt_of(const Request& request) const;

  // The request's forward pass and first token.
  Generating start(size_t slot, const Request& request);
  // One more token of each, none of them done. Returns the milliseconds of the forward pass.
  double step(const std::vector<Generating*>& requests);

  ScoredAnswer score(size_t slot, const Request& request, const std::string& completion, const Progress& progress);

  // Of the slot's request.
  Usage usage(size_t slot) const { return attention_.chosen[slot]->usage(); }

 private:
  const AnswerOptions& options_;
  AttentionMaker maker_;  // first: a wrong policy is known at once
  HfModel model_;
  Tokenizer tokenizer_;
  Transformer transformer_;
  ContextView view_;
  ChosenAttention attention_;  // scores are compared with the dense one
  int64_t n_context_;
};

}  // namespace squeeze
