// Prefill, decode, stop: one token after the other.
#include "lib/model/generate.hpp"

#include <algorithm>
#include <chrono>

#include "lib/core/elapsed.hpp"
#include "lib/core/error.hpp"
#include "lib/model/text_stream.hpp"

namespace squeeze {
namespace {

constexpr int64_t kReservedTokens = 4096;  // of an answer: memory is made ready for so many, a longer one grows it

void check(std::span<const int32_t> prompt_tokens, int64_t first_position, const GenerateOptions& options) {
  if (prompt_tokens.empty()) {
    fail("the prompt is empty: expected at least one token after the context, found none");
  }
  if (first_position < 0) fail("the first position must not be negative, found {}", first_position);
  if (options.max_tokens < 0) fail("max_tokens must not be negative, found {}", options.max_tokens);
  if (options.chunk < 1) fail("the prefill chunk must be at least 1 token, found {}", options.chunk);
}

// The stop tokens, and the stop strings that are the name of a special token, which no decoded text contains.
std::vector<int32_t> all_stop_tokens(const Tokenizer& tokenizer, const GenerateOptions& options) {
  std::vector<int32_t> tokens = options.stop_tokens;
  for (const std::string& stop : options.stop) {
    const std::optional<int32_t> token = tokenizer.token_id(stop);
    if (token && tokenizer.is_special(*token)) tokens.push_back(*token);
  }
  return tokens;
}

std::span<const float> last_row(TensorView logits) {
  const int64_t vocab = logits.size(1);
  return {logits.f32() + (logits.size(0) - 1) * vocab, static_cast<size_t>(vocab)};
}

// The answer while it grows: tokens, and the text that is final.
struct Answer {
  const Tokenizer& tokenizer;
  TextStream stream;
  const OnText& on_text;
  std::vector<int32_t> stop_tokens;
  std::vector<int32_t> tokens;
  std::string text;

  void publish(const std::string& piece) {
    text += piece;
    if (on_text && !piece.empty()) on_text(piece);
  }
  // Returns false if the answer ends here.
  bool add(int32_t token) {
    if (std::find(stop_tokens.begin(), stop_tokens.end(), token) != stop_tokens.end()) return false;
    tokens.push_back(token);
    publish(stream.advance(tokenizer.decode(tokens, true)));
    return !stream.stopped();
  }
  void finish() { publish(stream.finish(tokenizer.decode(tokens, true))); }
};

}  // namespace

std::string check_length(const ModelConfig& config, int64_t n_tokens) {
  if (config.sliding_window > 0 && n_tokens > config.sliding_window) {
    fail(
        "the model attends to a sliding window of {} tokens only, and context, prompt and max_tokens make {}: "
        "shorten the context or lower max_tokens",
        config.sliding_window, n_tokens);
  }
  int64_t limit = config.max_positions;
  if (config.rope.scaling != RopeScaling::none) {
    const double scaled = config.rope.factor * static_cast<double>(config.rope.original_positions);
    limit = std::max(limit, static_cast<int64_t>(scaled));
  }
  if (limit <= 0 || n_tokens <= limit) return {};
  return fmt::format("positions up to {} are beyond the {} that the model was made for", n_tokens, limit);
}

struct Generating::State {
  State(const Tokenizer& tokenizer, Attention& held, int64_t first_position, const GenerateOptions& options,
        OnText text)
      : attention(held),
        position(first_position),
        max_tokens(options.max_tokens),
        sampler(options.sampling),
        on_text(std::move(text)),
        answer{tokenizer, TextStream(options.stop), on_text, all_stop_tokens(tokenizer, options), {}, {}} {}

  // The chunks of a prompt; the last one's logits.
  TensorView prefill(Transformer& transformer, std::span<const int32_t> tokens, int64_t chunk) {
    TensorView logits;
    while (!tokens.empty()) {
      const auto part = tokens.first(std::min(tokens.size(), static_cast<size_t>(chunk)));
      logits = transformer.forward(part, position, attention);
      position += std::ssize(part);
      tokens = tokens.subspan(part.size());
    }
    return logits;
  }

  // The last token of an answer is not computed: nothing would follow it.
  void choose(std::span<const float> logits) { add(sampler.next(logits)); }
  void add(int32_t chosen) {
    token = chosen;
    ++n_chosen;
    if (!answer.add(token)) {
      result.finish_reason = "stop";
    } else if (n_chosen == max_tokens) {
      result.finish_reason = "length";
    }
  }

  // A forward pass of one token.
  void count(double ms) {
    ++position;
    ++n_decoded;
    decode_ms += ms;
  }

  Attention& attention;
  int64_t position;  // of the next token
  int64_t max_tokens, n_chosen = 0, n_decoded = 0;
  int32_t token = 0;
  double decode_ms = 0;
  Sampler sampler;
  OnText on_text;
  Answer answer;
  Generation result;
};

Generating::Generating(Transformer& transformer, const Tokenizer& tokenizer, Attention& attention,
                       std::span<const int32_t> prompt_tokens, int64_t first_position, const GenerateOptions& options,
                       const OnText& on_text) {
  check(prompt_tokens, first_position, options);
  const int64_t n_prompt = std::ssize(prompt_tokens);
  std::string warning = check_length(transformer.config(), first_position + n_prompt + options.max_tokens);
  state_ = std::make_unique<State>(tokenizer, attention, first_position, options, on_text);
  state_->result.n_prompt_tokens = n_prompt;
  state_->result.warning = std::move(warning);
  const int64_t n_reserved = std::min(options.max_tokens, kReservedTokens);
  state_->answer.tokens.reserve(static_cast<size_t>(n_reserved));
  attention.reserve(first_position + n_prompt + n_reserved);

  const auto start = std::chrono::steady_clock::now();
  const TensorView logits = state_->prefill(transformer, prompt_tokens, options.chunk);
  state_->result.prefill_ms = ms_since(start);
  if (options.max_tokens == 0) {
    state_->result.finish_reason = "length";
  } else {
    state_->choose(last_row(logits));
  }
}

Generating::Generating(Generating&&) noexcept = default;
Generating& Generating::operator=(Generating&&) noexcept = default;
Generating::~Generating() = default;

bool Generating::done() const { return !state_->result.finish_reason.empty(); }

SequenceToken Generating::next() const { return {state_->token, state_->position, &state_->attention}; }

bool Generating::greedy() const { return state_->sampler.greedy(); }

void Generating::take(std::span<const float> logits, double ms) {
  state_->count(ms);
  state_->choose(logits);
}

void Generating::take(int32_t chosen, double ms) {
  state_->count(ms);
  state_->add(chosen);
}

Generation Generating::finish() {
  State& s = *state_;
  s.answer.finish();
  if (s.n_decoded > 0) s.result.decode_ms_per_token = s.decode_ms / static_cast<double>(s.n_decoded);
  s.result.tokens = std::move(s.answer.tokens);
  s.result.text = std::move(s.answer.text);
  return std::move(s.result);
}

Generation generate(Transformer& transformer, const Tokenizer& tokenizer, Attention& attention,
                    std::span<const int32_t> prompt_tokens, int64_t first_position, const GenerateOptions& options,
                    const OnText& on_text) {
  Generating answer(transformer, tokenizer, attention, prompt_tokens, first_position, options, on_text);
  while (!answer.done()) {
    const auto start = std::chrono::steady_clock::now();
    const SequenceToken token = answer.next();
    const TensorView logits = transformer.forward({&token.token, 1}, token.position, attention);
    answer.take(last_row(logits), ms_since(start));
  }
  return answer.finish();
}

}  // namespace squeeze
