// Prefill, decode, stop.
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

// The forward passes: owns the position and the clock.
struct Runner {
  Transformer& transformer;
  Attention& attention;
  int64_t position;
  double decode_ms = 0;
  int64_t n_decoded = 0;

  TensorView forward(std::span<const int32_t> tokens) {
    const TensorView logits = transformer.forward(tokens, position, attention);
    position += static_cast<int64_t>(tokens.size());
    return logits;
  }

  TensorView prefill(std::span<const int32_t> tokens, int64_t chunk) {
    while (static_cast<int64_t>(tokens.size()) > chunk) {
      (void)forward(tokens.first(static_cast<size_t>(chunk)));
      tokens = tokens.subspan(static_cast<size_t>(chunk));
    }
    return forward(tokens);
  }

  TensorView decode(int32_t token) {
    const auto start = std::chrono::steady_clock::now();
    const TensorView logits = forward({&token, 1});
    decode_ms += ms_since(start);
    ++n_decoded;
    return logits;
  }
};

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

// Returns the finish reason. The last token is not computed: nothing would follow it.
std::string decode(Runner& runner, TensorView logits, Sampler& sampler, int64_t max_tokens, Answer& answer) {
  for (int64_t n = 1; n <= max_tokens; ++n) {
    const int32_t token = sampler.next(last_row(logits));
    if (!answer.add(token)) return "stop";
    if (n < max_tokens) logits = runner.decode(token);
  }
  return "length";
}

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

Generation generate(Transformer& transformer, const Tokenizer& tokenizer, Attention& attention,
                    std::span<const int32_t> prompt_tokens, int64_t first_position, const GenerateOptions& options,
                    const OnText& on_text) {
  check(prompt_tokens, first_position, options);
  Generation result;
  result.n_prompt_tokens = static_cast<int64_t>(prompt_tokens.size());
  result.warning = check_length(transformer.config(), first_position + result.n_prompt_tokens + options.max_tokens);
  Sampler sampler(options.sampling);
  Answer answer{tokenizer, TextStream(options.stop), on_text, all_stop_tokens(tokenizer, options), {}, {}};
  Runner runner{transformer, attention, first_position};
  const int64_t n_reserved = std::min(options.max_tokens, kReservedTokens);
  answer.tokens.reserve(static_cast<size_t>(n_reserved));
  attention.reserve(first_position + result.n_prompt_tokens + n_reserved);

  const auto start = std::chrono::steady_clock::now();
  const TensorView logits = runner.prefill(prompt_tokens, options.chunk);
  result.prefill_ms = ms_since(start);
  result.finish_reason = decode(runner, logits, sampler, options.max_tokens, answer);
  answer.finish();
  if (runner.n_decoded > 0) result.decode_ms_per_token = runner.decode_ms / static_cast<double>(runner.n_decoded);
  result.tokens = std::move(answer.tokens);
  result.text = std::move(answer.text);
  return result;
}

}  // namespace squeeze
