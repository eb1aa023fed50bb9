// RoPE frequencies per scaling kind; computed in float64, rounded to float32 where transformers stores float32.
#include "lib/model/rope.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace squeeze {
namespace {

constexpr double kPi = std::numbers::pi;

std::vector<float> frequencies(double theta, int head_dim) {
  std::vector<float> result(static_cast<size_t>(head_dim / 2));
  for (size_t i = 0; i < result.size(); ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(head_dim);
    result[i] = static_cast<float>(1.0 / std::pow(theta, double{exponent}));
  }
  return result;
}

// NTK-aware scaling of theta, from the sequence length on that the model was trained for.
double dynamic_theta(const RopeConfig& rope, int head_dim, int64_t n_tokens) {
  const auto trained = static_cast<double>(rope.original_positions);
  const double length = std::max(static_cast<double>(n_tokens), trained);
  const double stretch = rope.factor * length / trained - (rope.factor - 1);
  return rope.theta * std::pow(stretch, static_cast<double>(head_dim) / (head_dim - 2));
}

// Long wavelengths are divided by factor, short ones kept, those between interpolated.
float llama3_frequency(const RopeConfig& rope, double frequency) {
  const auto trained = static_cast<double>(rope.original_positions);
  const double wavelength = 2 * kPi / frequency;
  if (wavelength < trained / rope.high_freq_factor) return static_cast<float>(frequency);
  if (wavelength > trained / rope.low_freq_factor) return static_cast<float>(frequency / rope.factor);
  const double smooth = (trained / wavelength - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
  return static_cast<float>((1 - smooth) * frequency / rope.factor + smooth * frequency);
}

// The dimension that turns `rotations` times within the trained length (arXiv 2309.00071).
double yarn_dimension(const RopeConfig& rope, int head_dim, double rotations) {
  const auto trained = static_cast<double>(rope.original_positions);
  return head_dim * std::log(trained / (rotations * 2 * kPi)) / (2 * std::log(rope.theta));
}

void scale_yarn(const RopeConfig& rope, int head_dim, std::vector<float>& frequency) {
  double low = yarn_dimension(rope, head_dim, rope.beta_fast);
  double high = yarn_dimension(rope, head_dim, rope.beta_slow);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, head_dim - 1.0);
  if (low == high) high += 0.001;
  for (size_t i = 0; i < frequency.size(); ++i) {
    const double interpolated = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    frequency[i] = static_cast<float>(frequency[i] * (interpolated / rope.factor + (1 - interpolated)));
  }
}

double yarn_mscale(double factor, double mscale) { return factor <= 1 ? 1 : 0.1 * mscale * std::log(factor) + 1; }

double yarn_attention_factor(const RopeConfig& rope) {
  if (rope.attention_factor != 0) return rope.attention_factor;
  if (rope.mscale != 0 && rope.mscale_all_dim != 0) {
    return yarn_mscale(rope.factor, rope.mscale) / yarn_mscale(rope.factor, rope.mscale_all_dim);
  }
  return yarn_mscale(rope.factor, 1);
}

}  // namespace

Rope::Rope(const RopeConfig& config, int head_dim) : config_(config), head_dim_(head_dim) { update(); }

void Rope::set_sequence_length(int64_t n_tokens) {
  if (n_tokens <= sequence_length_) return;
  sequence_length_ = n_tokens;
  update();
}

void Rope::update() {
  const bool is_dynamic = config_.scaling == RopeScaling::dynamic;
  const double theta = is_dynamic ? dynamic_theta(config_, head_dim_, sequence_length_) : config_.theta;
  inverse_frequencies_ = frequencies(theta, head_dim_);
  if (config_.scaling == RopeScaling::linear) {
    for (float& frequency : inverse_frequencies_) frequency = static_cast<float>(frequency / config_.factor);
  } else if (config_.scaling == RopeScaling::llama3) {
    for (float& frequency : inverse_frequencies_) frequency = llama3_frequency(config_, frequency);
  } else if (config_.scaling == RopeScaling::yarn) {
    scale_yarn(config_, head_dim_, inverse_frequencies_);
    attention_factor_ = static_cast<float>(yarn_attention_factor(config_));
  }
}

void Rope::angles(int64_t position, float* cosines, float* sines) const {
  for (size_t i = 0; i < inverse_frequencies_.size(); ++i) {
    const float angle = static_cast<float>(position) * inverse_frequencies_[i];
    cosines[i] = std::cos(angle) * attention_factor_;
    sines[i] = std::sin(angle) * attention_factor_;
  }
}

}  // namespace squeeze
