// Codes by the nearest entry, leaf by leaf.
#include "lib/index/sketch.hpp"

#include <algorithm>
#include <cmath>

#include "kernels/kernels.hpp"
#include "lib/core/parallel.hpp"
#include "lib/index/sketch_codebooks.hpp"

namespace squeeze {
namespace {

constexpr int64_t kLeavesPerBlock = 32;
constexpr float kLargestHalf = 65504;
constexpr double kLargestError = 1e6;  // of residuals beyond f16

// What the codes of some keys miss, summed.
struct Misses {
  double squares = 0, squared_scales = 0;
};

// The codes of one block of leaves, into the arrays of all.
class Encoder {
 public:
  Encoder(TensorView keys, const LevelView& leaves, const SketchCodebooks& codebooks, Sketches& out)
      : out_(out),
        residuals_(keys, leaves),
        groups_(codebooks),
        code_bytes_(sketch_code_bytes(codebooks.group_dim, keys.size(1))) {}

  void encode_leaf(int64_t leaf) {
    residuals_.for_leaf(leaf, [&](int64_t row, const std::vector<float>& x) { encode(row, x); });
  }

  const Misses& misses() const { return misses_; }

 private:
  void encode(int64_t row, const std::vector<float>& x) {
    const float inverse = inverse_length(x);
    uint8_t* code = out_.codes.data() + row * code_bytes_;
    double product = 0, squares = 0, length = 0;
    groups_.for_each(x, [&](int64_t group, const float* own) {
      float unit[kMaxGroupDim];
      for (int i = 0; i < groups_.group_dim(); ++i) unit[i] = own[i] * inverse;
      const int entry = nearest_entry(unit, groups_.entries(group), groups_.group_dim()).entry;
      code[group / 2] |= static_cast<uint8_t>(entry << (group % 2 * 4));
      for (int i = 0; i < groups_.group_dim(); ++i) {
        const double level = double{groups_.entries(group)[i * kSketchEntries + entry]};
        product += double{own[i]} * level;
        squares += level * level;
        length += double{own[i]} * double{own[i]};
      }
    });
    const double scale = product > 0 && squares > 0 ? product / squares : 0.0;
    const uint16_t half = f32_to_f16(std::min(static_cast<float>(scale), kLargestHalf));
    out_.scales[static_cast<size_t>(row)] = half;
    const double rounded = double{f16_to_f32(half)};
    misses_.squared_scales += rounded * rounded;
    misses_.squares += std::max(0.0, length - 2 * rounded * product + rounded * rounded * squares);
  }

  Sketches& out_;
  LeafResiduals residuals_;
  EntryGroups groups_;
  int64_t code_bytes_;
  Misses misses_;
};

}  // namespace

Sketches sketch_keys(TensorView keys, const LevelView& leaves, const SketchCodebooks& codebooks) {
  const int64_t n_keys = keys.size(0), n_leaves = leaves.n_clusters();
  Sketches out;
  out.codebooks = codebooks;
  out.codes.resize(static_cast<size_t>(n_keys * sketch_code_bytes(codebooks.group_dim, keys.size(1))), 0);
  out.scales.resize(static_cast<size_t>(n_keys));
  const int64_t n_blocks = (n_leaves + kLeavesPerBlock - 1) / kLeavesPerBlock;
  std::vector<Misses> misses(static_cast<size_t>(n_blocks));
  parallel_blocks(n_leaves, kLeavesPerBlock, [&](int64_t begin, int64_t end) {
    Encoder encoder(keys, leaves, codebooks, out);
    for (int64_t leaf = begin; leaf < end; ++leaf) encoder.encode_leaf(leaf);
    misses[static_cast<size_t>(begin / kLeavesPerBlock)] = encoder.misses();
  });
  Misses all;
  for (const Misses& own : misses) all = {all.squares + own.squares, all.squared_scales + own.squared_scales};
  const double error = all.squared_scales > 0 ? all.squares / all.squared_scales / double(keys.size(1)) : 0.0;
  out.codebooks.error = static_cast<float>(std::min(error, kLargestError));
  return out;
}

Sketches sketch_keys(TensorView keys, const LevelView& leaves, int group_dim) {
  return sketch_keys(keys, leaves, learn_codebooks(keys, leaves, group_dim));
}

}  // namespace squeeze
