// A leaf at a time: the kernel compares the sketches of its keys with the 8-bit queries, beside the leaf's own logit.
#include "lib/attention/key_stage.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "lib/index/sketch.hpp"

namespace squeeze {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The variance of an estimate of q·k is about |q|^2 times the sketch's squared scale times this: the squared error of
// the rounded residual, per dimension, for a Gaussian one (1 - 2/pi for one bit; 0.1175 of 0.884 for two).
double noise_variance(int bits) { return bits == 1 ? 1 - 0.6366 : 0.104; }

// The share of the noise that is taken back. A key that was not kept is one whose noise was not large: the whole
// correction is too much (fitted on the tuning documents).
constexpr double kNoiseShare = 0.75;

}  // namespace

KeyStage::KeyStage(Descent& descent, const std::vector<char>& keep) : descent_(descent) {
  const LevelView& level = descent.level();
  descent.in_play().for_each([&](int64_t i, int32_t leaf) {
    const auto position = static_cast<size_t>(i);
    if (!keep[position]) return;
    leaves_.push_back({leaf, position, rows_.size(), level.n_rows(leaf)});
    rows_.add(level.first_row[static_cast<size_t>(leaf)], level.first_row[static_cast<size_t>(leaf) + 1]);
  });
  descent.drop(keep);
}

const BlockScores& KeyStage::score() {
  const SketchView& sketches = descent_.head().sketches;
  const int64_t n_queries = descent_.block().n_rows, dim = descent_.queries().size(1);
  const int64_t code_bytes = sketch_code_bytes(sketches.bits, dim);
  const QuantisedRows queries = sketch_queries(descent_.queries(), sketches, descent_.scale());
  logits_ = Tensor(DType::f32, {n_queries, rows_.size()});
  for (const Leaf& leaf : leaves_) {
    const int64_t key = descent_.level().first_row[static_cast<size_t>(leaf.leaf)] - descent_.head().n_sinks;
    kernels().sketch_scores({.queries = static_cast<const int8_t*>(queries.rows.data()),
                             .n_queries = n_queries,
                             .query_scales = queries.scales.data(),
                             .offsets = descent_.logits().f32() + leaf.position,
                             .offset_stride = descent_.in_play().size(),
                             .codes = sketches.codes + key * code_bytes,
                             .scales = sketches.scales + key,
                             .n_rows = leaf.n_rows,
                             .dim = dim,
                             .bits = sketches.bits,
                             .out = logits_.f32() + leaf.first,
                             .out_stride = rows_.size()});
  }
  const std::span<const float> logits(logits_.f32(), static_cast<size_t>(logits_.n_elements()));
  scores_ = block_scores(logits, rows_.size(), {}, descent_.dropped(), descent_.block());
  return scores_;
}

// The squared scale of each candidate's sketch.
std::vector<float> KeyStage::squared_scales() const {
  std::vector<float> squares(static_cast<size_t>(rows_.size()));
  float* out = squares.data();
  for (const RowRange& run : rows_.runs()) {
    const uint16_t* scales = descent_.head().sketches.scales + run.begin - descent_.head().n_sinks;
    kernels().to_f32(scales, DType::f16, run.end - run.begin, out);
    out += run.end - run.begin;
  }
  for (float& x : squares) x *= x;
  return squares;
}

void KeyStage::drop(const std::vector<char>& keep_key) {
  std::vector<DroppedCluster> items;
  std::vector<const Leaf*> leaves;
  for (const Leaf& leaf : leaves_) {
    const auto begin = keep_key.begin() + leaf.first;
    const auto n_dropped = static_cast<int32_t>(std::count(begin, begin + leaf.n_rows, char{0}));
    if (n_dropped == 0) continue;
    items.push_back({descent_.level_number(), leaf.leaf, n_dropped});
    leaves.push_back(&leaf);
  }
  const std::vector<float> variances = squared_scales();
  const size_t n = variances.size();
  std::vector<float> gone(n), weights(n), log_mass;
  for (size_t i = 0; i < n; ++i) gone[i] = keep_key[i] ? -kInfinity : 0.0f;
  const TensorView queries = descent_.queries();
  log_mass.reserve(items.size() * static_cast<size_t>(queries.size(0)));
  for (int64_t q = 0; q < queries.size(0); ++q) {
    const float noise = noise_of(queries[q]);
    const float* logits = logits_.f32() + q * rows_.size();
    for (size_t i = 0; i < n; ++i) weights[i] = logits[i] - noise * variances[i] + gone[i];
    for (const Leaf* leaf : leaves) {
      const std::span<float> own(weights.data() + leaf->first, static_cast<size_t>(leaf->n_rows));
      log_mass.push_back(static_cast<float>(log_sum_exp(own)));
    }
  }
  descent_.dropped().add(items, log_mass);
}

// What the noise of an estimate adds to the logarithm of its exponential's mean, per squared scale of the sketch.
float KeyStage::noise_of(TensorView query) const {
  double squares = 0;
  for (int64_t c = 0; c < query.n_elements(); ++c) squares += double{query.f32()[c]} * double{query.f32()[c]};
  const double scale = descent_.scale();
  return static_cast<float>(kNoiseShare * 0.5 * scale * scale * squares *
                            noise_variance(descent_.head().sketches.bits));
}

}  // namespace squeeze
