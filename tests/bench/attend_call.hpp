// One call of attention over a made-up context, layer after layer, as a model would make it.
#pragma once

#include "tests/bench/bench.hpp"
#include "tests/bench/made_context.hpp"

namespace squeeze {

class AttendCall {
 public:
  // n_tokens of the user's in one call; query_block as of ContextAttention.
  AttendCall(const MadeContext& context, Policy policy, Rest rest, int64_t n_tokens, int64_t query_block)
      : context_(context),
        attention_(context.view(), std::move(policy), rest, query_block),
        queries_(context.queries(n_tokens)),
        tail_(context.tail(n_tokens)) {}

  // Attends in the next layer.
  void operator()() {
    attention_.clear_tail();
    output_ = attention_.attend({layer_, context_.shape().n_tokens, queries_, tail_, tail_});
    lookup_ms_ += usage().lookup_ms;
    attention_ms_ += usage().attention_ms;
    layer_ = (layer_ + 1) % context_.shape().n_layers;
  }
  TensorView output() const { return output_; }       // of the last call
  Usage usage() const { return attention_.usage(); }  // of the last call
  // Of the time of all calls since the share was reset.
  double lookup_share() const { return lookup_ms_ / (lookup_ms_ + attention_ms_); }
  void reset_share() { lookup_ms_ = attention_ms_ = 0; }

 private:
  const MadeContext& context_;
  ContextAttention attention_;
  Tensor queries_, tail_;
  TensorView output_;
  int layer_ = 0;
  double lookup_ms_ = 0, attention_ms_ = 0;
};

// Checks the call against the scalar kernels; returns their time. A lookup's choices between nearly equal keys may
// differ by rounding: sparse calls have a wider limit.
inline double checked_against_scalar(const std::string& name, AttendCall& call, double limit) {
  call();
  const Tensor found = call.output().clone();
  const double ms = time_scalar([&] { call(); });
  check_close(name, found, call.output(), limit);
  return ms;
}

}  // namespace squeeze
