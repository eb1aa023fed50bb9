// Chooses the next token from logits: greedy, or temperature, top-k and top-p with a seed.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace squeeze {

struct SamplingOptions {
  float temperature = 0;  // 0: greedy, the lowest id on a tie
  int top_k = 0;          // 0: all
  float top_p = 1;        // nucleus sampling, Holtzman et al., arXiv 1904.09751
  uint64_t seed = 0;
};

// Throws if a logit is NaN or +infinity, or if all are -infinity (which marks a token that cannot be chosen).
void check_logits(std::span<const float> logits);

// The lowest id among the largest logits. Throws as check_logits does.
int32_t greedy_token(std::span<const float> logits);

class Sampler {
 public:
  explicit Sampler(const SamplingOptions& options);
  // Throws as check_logits does.
  int32_t next(std::span<const float> logits);
  bool greedy() const { return options_.temperature == 0; }

 private:
  SamplingOptions options_;
  uint64_t state_;
  std::vector<std::pair<float, int32_t>> candidates_;
};

}  // namespace squeeze
