// Scoring of given text: log-probabilities of tokens that follow a context, and their distance from dense attention.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lib/attention/attention.hpp"
#include "lib/core/progress.hpp"
#include "lib/model/tokenizer.hpp"
#include "lib/model/transformer.hpp"

namespace squeeze {

// A text to score: what is given first, and what is asked about.
struct GivenTokens {
  std::vector<int32_t> prompt;
  std::vector<int32_t> completion;
};

// Encodes prompt and completion as one text if that text begins with the prompt's own tokens, so that the completion
// is cut as it would be in running text; otherwise each on its own. Without special tokens.
GivenTokens encode_given(const Tokenizer& tokenizer, const std::string& prompt, const std::string& completion);

struct ScoreOptions {
  int64_t chunk = 512;           // prompt tokens per forward pass, as in GenerateOptions
  int64_t completion_chunk = 1;  // completion tokens per forward pass; 1: as generating them does
  Progress progress = {};        // called after each pass, in tokens
};

// Consecutive tokens; all logarithms are natural.
struct TokenScores {
  std::vector<double> logprobs;        // one per scored token
  std::vector<double> dense_logprobs;  // the same under dense attention; empty unless compared
  std::vector<double> kl;              // KL(dense || sparse) of the distributions that predict the token; likewise

  int64_t n_tokens() const { return static_cast<int64_t>(logprobs.size()); }
  void append(const TokenScores& other);
};

struct Score {
  // Nothing predicts the first token after a context (an index holds no hidden state of the context's last token), so
  // that one is missing: in `prompt`, or in `completion` if the prompt is empty.
  TokenScores prompt;
  TokenScores completion;
  std::string warning;             // as in Generation
  double prefill_ms = 0;           // forward passes of the prompt, logits included; without the dense ones
  double decode_ms_per_token = 0;  // of the completion; 0 if there were none
};

// Runs the tokens teacher-forced at positions from first_position, where `attention` (and `dense`, if the scores are to
// be compared) already hold that many tokens: the prompt in chunks, the completion token by token, its last one not at
// all. Memory: the logits of 64 tokens at a time. Throws if there is no token to score, and as generate() does.
Score score(const Transformer& transformer, const GivenTokens& tokens, int64_t first_position,
            const ScoreOptions& options, Attention& attention, Attention* dense = nullptr);

// The natural logarithm of the softmax of `logits` at a token, in float64. Throws as check_logits does.
double log_probability(std::span<const float> logits, int32_t token);
// KL(p || q) in nats of the softmax of two rows of logits, in float64: 0 or more, infinite if q excludes what p does
// not.
double kl_divergence(std::span<const float> p_logits, std::span<const float> q_logits);

// NaN of none.
double mean(std::span<const double> values);

}  // namespace squeeze
