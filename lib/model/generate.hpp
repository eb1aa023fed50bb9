// The generation loop: chunked prefill of a prompt that follows a context, then decoding until a stop.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lib/attention/attention.hpp"
#include "lib/model/sampler.hpp"
#include "lib/model/tokenizer.hpp"
#include "lib/model/transformer.hpp"

namespace squeeze {

struct GenerateOptions {
  SamplingOptions sampling;
  int64_t max_tokens = 256;
  std::vector<std::string> stop;     // the text ends before the first of these; special tokens by their name too
  std::vector<int32_t> stop_tokens;  // not part of the answer; usually config().eos_tokens
  int64_t chunk = 512;               // prompt tokens per forward pass: each is one query block of the attention
};

struct Generation {
  std::vector<int32_t> tokens;  // all that were generated, without the stop token
  std::string text;             // without special tokens, cut before the stop string
  std::string finish_reason;    // "stop" or "length"
  std::string warning;          // empty, or that positions are beyond what the model was made for
  int64_t n_prompt_tokens = 0;
  double prefill_ms = 0;
  double decode_ms_per_token = 0;  // per forward pass of one token; 0 if there was none
};

// Receives the text piece by piece; the pieces are valid UTF-8.
using OnText = std::function<void(std::string_view)>;

// first_position: tokens that `attention` already holds. The caller fixes the RoPE length (set_sequence_length): a
// fixed context has to be continued with the frequencies that it was recorded with. Throws on an empty prompt, and if
// the sequence could grow beyond the model's sliding window, which this attention does not have.
Generation generate(Transformer& transformer, const Tokenizer& tokenizer, Attention& attention,
                    std::span<const int32_t> prompt_tokens, int64_t first_position, const GenerateOptions& options,
                    const OnText& on_text = {});

// generate() in steps, so that several requests can share forward passes (Transformer::forward_each). The arguments
// outlive it.
class Generating {
 public:
  // The prompt's forward pass, and the answer's first token.
  Generating(Transformer& transformer, const Tokenizer& tokenizer, Attention& attention,
             std::span<const int32_t> prompt_tokens, int64_t first_position, const GenerateOptions& options,
             const OnText& on_text = {});
  Generating(Generating&&) noexcept;
  Generating& operator=(Generating&&) noexcept;
  ~Generating();

  bool done() const;
  SequenceToken next() const;  // unless done: the token to be computed
  // Its logits, f32 [vocab] on the host. ms: what the forward pass took.
  void take(std::span<const float> logits, double ms);
  bool greedy() const;  // then what follows may be chosen elsewhere (Transformer::greedy_each):
  void take(int32_t chosen, double ms);
  Generation finish();  // when done, once

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Throws, or returns the warning, for a sequence of n_tokens in all.
std::string check_length(const ModelConfig& config, int64_t n_tokens);

}  // namespace squeeze
