// Teacher-forced passes, sparse and dense in step.
#include "lib/model/score.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>

#include "lib/core/elapsed.hpp"
#include "lib/core/error.hpp"
#include "lib/core/parallel.hpp"
#include "lib/model/generate.hpp"
#include "lib/model/sampler.hpp"

namespace squeeze {
namespace {

constexpr int64_t kLogitRows = 64;  // rows of logits in memory at once

double log_sum_exp(std::span<const float> logits) {
  check_logits(logits);
  const double max = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(double{logit} - max);
  return max + std::log(sum);
}

std::span<const float> row(TensorView logits, int64_t i) {
  return {logits[i].f32(), static_cast<size_t>(logits.size(1))};
}

// Scores of targets.size() tokens from the rows of logits that predict them. dense: null unless compared.
void append_scores(const Tensor& logits, const Tensor* dense, std::span<const int32_t> targets, TokenScores& scores) {
  const size_t before = scores.logprobs.size();
  scores.logprobs.resize(before + targets.size());
  if (dense) {
    scores.dense_logprobs.resize(before + targets.size());
    scores.kl.resize(before + targets.size());
  }
  parallel_for(std::ssize(targets), [&](int64_t i) {
    const auto at = static_cast<size_t>(i);
    scores.logprobs[before + at] = log_probability(row(logits, i), targets[at]);
    if (!dense) return;
    scores.dense_logprobs[before + at] = log_probability(row(*dense, i), targets[at]);
    scores.kl[before + at] = kl_divergence(row(*dense, i), row(logits, i));
  });
}

// The forward passes: `tokens` are prompt and completion together.
struct Scorer {
  const Transformer& transformer;
  std::span<const int32_t> tokens;
  int64_t first_position;
  Attention& attention;
  Attention* dense;
  const Progress& progress;
  double ms = 0;  // of the passes through `attention`, so far

  // What the transformer returns is valid until it computes again, so that copies are compared.
  // A pass over tokens [begin, end), which predicts tokens [begin + 1, end + 1).
  void pass(int64_t begin, int64_t end, TokenScores& scores) {
    Operations& ops = transformer.operations();
    const Tensor hidden = ops.clone(timed([&] { return hidden_states(begin, end, attention); }));
    const Tensor dense_hidden = dense ? ops.clone(hidden_states(begin, end, *dense)) : Tensor();
    for (int64_t first = 0; first < end - begin; first += kLogitRows) {
      const int64_t last = std::min(end - begin, first + kLogitRows);
      const Tensor logits = timed([&] { return transformer.logits(hidden.view().slice(first, last)); }).clone();
      const Tensor dense_logits = dense ? transformer.logits(dense_hidden.view().slice(first, last)).clone() : Tensor();
      append_scores(logits, dense ? &dense_logits : nullptr, part(begin + first + 1, begin + last + 1), scores);
    }
  }

  void passes(int64_t begin, int64_t end, int64_t chunk, TokenScores& scores) {
    for (; begin < end; begin += chunk) {
      const int64_t next = std::min(end, begin + chunk);
      pass(begin, next, scores);
      if (progress) progress({"scoring", next, std::ssize(tokens) - 1});
    }
  }

 private:
  std::span<const int32_t> part(int64_t begin, int64_t end) const {
    return tokens.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
  }
  TensorView hidden_states(int64_t begin, int64_t end, Attention& through) const {
    return transformer.hidden_states(part(begin, end), first_position + begin, through);
  }
  template <class Body>
  TensorView timed(Body&& body) {
    const auto start = std::chrono::steady_clock::now();
    const TensorView result = body();
    ms += ms_since(start);
    return result;
  }
};

void append(const std::vector<double>& from, std::vector<double>& to) { to.insert(to.end(), from.begin(), from.end()); }

// The prompt's last row of logits predicts the completion's first token.
void move_last(std::vector<double>& from, std::vector<double>& to) {
  if (from.empty()) return;
  to.push_back(from.back());
  from.pop_back();
}

}  // namespace

void TokenScores::append(const TokenScores& other) {
  squeeze::append(other.logprobs, logprobs);
  squeeze::append(other.dense_logprobs, dense_logprobs);
  squeeze::append(other.kl, kl);
}

GivenTokens encode_given(const Tokenizer& tokenizer, const std::string& prompt, const std::string& completion) {
  GivenTokens given{tokenizer.encode(prompt, false), {}};
  const std::vector<int32_t> together = tokenizer.encode(prompt + completion, false);
  const auto [end, split] = std::mismatch(given.prompt.begin(), given.prompt.end(), together.begin(), together.end());
  if (end == given.prompt.end()) {
    given.completion.assign(split, together.end());
  } else {
    given.completion = tokenizer.encode(completion, false);
  }
  return given;
}

Score score(const Transformer& transformer, const GivenTokens& tokens, int64_t first_position,
            const ScoreOptions& options, Attention& attention, Attention* dense) {
  const int64_t n_prompt = std::ssize(tokens.prompt), n = n_prompt + std::ssize(tokens.completion);
  if (first_position < 0) fail("the first position must not be negative, found {}", first_position);
  if (options.chunk < 1 || options.completion_chunk < 1) {
    fail("chunks must be at least 1 token, found {} and {}", options.chunk, options.completion_chunk);
  }
  if (n == n_prompt) fail("the completion is empty: expected at least one token to score, found none");
  if (n == 1)
    fail("nothing to score: nothing predicts the first token after the context, and the completion has no other");
  std::vector<int32_t> all = tokens.prompt;
  all.insert(all.end(), tokens.completion.begin(), tokens.completion.end());

  Score result;
  result.warning = check_length(transformer.config(), first_position + n);
  Scorer scorer{transformer, all, first_position, attention, dense, options.progress};
  scorer.passes(0, n_prompt, options.chunk, result.prompt);
  move_last(result.prompt.logprobs, result.completion.logprobs);
  move_last(result.prompt.dense_logprobs, result.completion.dense_logprobs);
  move_last(result.prompt.kl, result.completion.kl);
  result.prefill_ms = scorer.ms;
  scorer.passes(n_prompt, n - 1, options.completion_chunk, result.completion);
  const int64_t n_decoded = n - 1 - n_prompt;
  if (n_decoded > 0) result.decode_ms_per_token = (scorer.ms - result.prefill_ms) / static_cast<double>(n_decoded);
  return result;
}

double log_probability(std::span<const float> logits, int32_t token) {
  if (token < 0 || static_cast<size_t>(token) >= logits.size()) {
    fail("token {} is not in the model's vocabulary of {}; does the tokenizer belong to the model?", token,
         logits.size());
  }
  return double{logits[static_cast<size_t>(token)]} - log_sum_exp(logits);
}

double kl_divergence(std::span<const float> p_logits, std::span<const float> q_logits) {
  const double p_norm = log_sum_exp(p_logits), q_norm = log_sum_exp(q_logits);
  double divergence = 0;
  for (size_t i = 0; i < p_logits.size(); ++i) {
    const double log_p = double{p_logits[i]} - p_norm, log_q = double{q_logits[i]} - q_norm;
    const double p = std::exp(log_p);
    if (p > 0) divergence += p * (log_p - log_q);
  }
  return std::max(0.0, divergence);  // equal distributions can sum to a rounding error below 0
}

double mean(std::span<const double> values) {
  const double sum = std::accumulate(values.begin(), values.end(), 0.0);
  return values.empty() ? std::nan("") : sum / static_cast<double>(values.size());
}

}  // namespace squeeze
