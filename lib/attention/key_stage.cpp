// A leaf at a time: unpack the codes, score them like rows, add the leaf's own logit.
#include "lib/attention/key_stage.hpp"

#include <algorithm>
#include <cmath>

#include "lib/index/sketch.hpp"

namespace squeeze {
namespace {

constexpr int64_t kTileRows = 64;  // keys whose codes are unpacked at once

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
  const HeadView& head = descent_.head();
  const int64_t n_rows = descent_.block().n_rows;
  const int64_t dim = head.keys.size(1);
  std::vector<float> rotated(static_cast<size_t>(n_rows * dim));
  kernels().matvec({descent_.queries().f32(), n_rows, head.sketches.rotation.data(), DType::f32, dim, dim, nullptr,
                    rotated.data(), dim});
  logits_.resize(static_cast<size_t>(n_rows * rows_.size()));
  scales_.resize(static_cast<size_t>(rows_.size()));
  tile_.resize(static_cast<size_t>(kTileRows * dim));
  for (const Leaf& leaf : leaves_) estimate(leaf, rotated);
  scores_ = block_scores(logits_, rows_.size(), {}, descent_.dropped(), descent_.block());
  return scores_;
}

void KeyStage::estimate(const Leaf& leaf, const std::vector<float>& rotated) {
  const HeadView& head = descent_.head();
  const int64_t n_queries = descent_.block().n_rows;
  const int64_t dim = head.keys.size(1);
  const int64_t first_key = descent_.level().first_row[static_cast<size_t>(leaf.leaf)] - head.n_sinks;
  for (int64_t begin = 0; begin < leaf.n_rows; begin += kTileRows) {
    const int64_t n = std::min(kTileRows, leaf.n_rows - begin);
    float* scales = scales_.data() + leaf.first + begin;
    kernels().to_f32(head.sketches.scales + first_key + begin, DType::f16, n, scales);
    kernels().unpack_signs(
        {.codes = head.sketches.codes + (first_key + begin) * sketch_code_bytes(head.sketches.bits, dim),
         .n_rows = n,
         .dim = dim,
         .bits = head.sketches.bits,
         .row_scales = scales,
         .out = tile_.data()});
    kernels().scores({.queries = rotated.data(),
                      .n_queries = n_queries,
                      .rows = tile_.data(),
                      .dtype = DType::f32,
                      .n_rows = n,
                      .dim = dim,
                      .scale = descent_.scale(),
                      .out = logits_.data() + leaf.first + begin,
                      .out_stride = rows_.size()});
  }
  const auto n_leaves = static_cast<size_t>(descent_.in_play().size());
  for (int64_t q = 0; q < n_queries; ++q) {
    const float base = descent_.logits()[static_cast<size_t>(q) * n_leaves + leaf.position];
    float* own = logits_.data() + q * rows_.size() + leaf.first;
    for (int64_t i = 0; i < leaf.n_rows; ++i) own[i] += base;
  }
}

// The logarithm of the attention of a leaf's keys that are not kept; at least one is not.
float KeyStage::log_mass(const Leaf& leaf, int64_t query, float noise, const std::vector<char>& keep_key) {
  const float* logits = logits_.data() + query * rows_.size();
  weights_.clear();
  for (int64_t i = leaf.first; i < leaf.first + leaf.n_rows; ++i) {
    const auto c = static_cast<size_t>(i);
    if (!keep_key[c]) weights_.push_back(logits[i] - noise * scales_[c] * scales_[c]);
  }
  const float max = *std::max_element(weights_.begin(), weights_.end());
  return max + std::log(kernels().exp_sum(weights_.data(), std::ssize(weights_), max, nullptr));
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
  const TensorView queries = descent_.queries();
  const double scale = descent_.scale();
  std::vector<float> mass;
  for (int64_t q = 0; q < queries.size(0); ++q) {
    double squares = 0;
    for (int64_t c = 0; c < queries.size(1); ++c) squares += double{queries[q].f32()[c]} * double{queries[q].f32()[c]};
    const double noise = kNoiseShare * 0.5 * scale * scale * squares * noise_variance(descent_.head().sketches.bits);
    for (const Leaf* leaf : leaves) mass.push_back(log_mass(*leaf, q, static_cast<float>(noise), keep_key));
  }
  descent_.dropped().add(items, mass);
}

}  // namespace squeeze
