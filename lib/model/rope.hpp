// Rotary position embedding (arXiv 2104.09864) and its scalings, as transformers' modeling_rope_utils defines them.
#pragma once

#include <cstdint>
#include <vector>

#include "lib/model/config.hpp"

namespace squeeze {

class Rope {
 public:
  Rope(const RopeConfig& config, int head_dim);

  // Frequencies for a sequence of at least this many tokens: "dynamic" depends on it once it exceeds
  // original_positions. A shorter length than before changes nothing.
  void set_sequence_length(int64_t n_tokens);
  int64_t sequence_length() const { return sequence_length_; }

  // Radians per position, [head_dim / 2].
  const std::vector<float>& inverse_frequencies() const { return inverse_frequencies_; }
  // Multiplies cosines and sines; 1 except for yarn.
  float attention_factor() const { return attention_factor_; }

  // cosines, sines: [head_dim / 2]. The angle is a float32 product, as in transformers, so that the two agree at long
  // positions too.
  void angles(int64_t position, float* cosines, float* sines) const;

 private:
  void update();

  RopeConfig config_;
  int head_dim_;
  int64_t sequence_length_ = 0;
  std::vector<float> inverse_frequencies_;
  float attention_factor_ = 1;
};

}  // namespace squeeze
