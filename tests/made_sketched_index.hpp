// Indexes with all that versions 2 to 4 of the format brought: sketches, 8-bit centroids, probe positions, heads'
// shares. As in made_files.hpp, the same on any machine.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "lib/index/sign_sketches.hpp"
#include "tests/made_files.hpp"
#include "tests/made_sketches.hpp"

namespace squeeze {

struct MadeIndexKind {
  DType dtype = DType::bf16;
  int group = 4;  // of sketches; 0: none
  bool quantise = true;
  bool quantise_kv = false;
  int sign_bits = 0;  // of sketches of version 2 and 3: of files that are there, not to be written

  bool sketches() const { return group > 0 || sign_bits > 0; }
};

inline constexpr MadeIndexKind kGoldenKinds[] = {{DType::bf16, 4, true}, {DType::f32, 2, false}};

// Two probe questions of three and two tokens after the twelve of the context.
inline const std::vector<int32_t> kMadePositions = {12, 13, 14, 12, 13};

inline IndexOptions made_options(const MadeIndexKind& kind) {
  IndexOptions options = made_options();
  options.sketch_group = kind.group;
  options.quantise_centroids = kind.quantise;
  options.quantise_kv = kind.quantise_kv;
  return options;
}

// The values of `rows` [.., 3] in sixteenths as integers, a scale per row.
inline void make_quantised(Tensor& rows, std::vector<float>& scales) {
  Tensor integers(DType::i8, rows.shape());
  for (int64_t i = 0; i < rows.n_elements(); ++i) {
    store_element(integers.data(), DType::i8, i, 16 * load_element(rows.data(), rows.dtype(), i));
  }
  for (int64_t i = 0; i < rows.n_elements() / 3; ++i) scales.push_back(static_cast<float>(i + 1) / 64.0f);
  rows = std::move(integers);
}

inline IndexLayer made_index_layer(const MadeIndexKind& kind, int number) {
  IndexLayer layer = made_index_layer(kind.dtype, number);
  for (size_t h = 0; h < 2; ++h) {
    HeadIndex& head = layer.heads[h];
    for (Level& level : head.levels) {
      if (!kind.quantise) break;
      make_quantised(level.centroids, level.centroid_scales);
      make_quantised(level.value_means, level.value_scales);
    }
    if (kind.group > 0) {
      const TensorView keys = layer.keys[static_cast<int64_t>(h)].slice(1, 10);
      head.sketches = sketch_keys(keys, head.levels.back().view(), kind.group);
    }
  }
  if (kind.quantise_kv) {
    make_quantised(layer.keys, layer.key_scales);
    make_quantised(layer.values, layer.value_scales);
  }
  return layer;
}

inline Tensor made_queries(const MadeIndexKind& kind, int number) {
  return made_tensor(kind.dtype, {4, std::ssize(kMadePositions), 3}, 60 + number);
}

inline Calibration made_calibration(const MadeIndexKind& kind) {
  Calibration calibration = made_calibration();
  calibration.gqa = kind.quantise ? GqaSelect::per_head : GqaSelect::group_max;
  calibration.sketches = kind.sketches();
  if (kind.sketches()) calibration.upper_keep.push_back(0.5);
  for (BlockCalibration& block : calibration.blocks) {
    if (kind.sketches()) {
      block.flat.push_back(block.flat.front());
      block.pruned.push_back(block.flat.back());
    }
    block.shares = {2, 2, {}};
    for (size_t i = 0; i < share_grid().size() * 4; ++i) {
      block.shares.kept.push_back(static_cast<float>(i % 64) / 64.0f);
    }
  }
  return calibration;
}

inline void write_made_index(const std::string& path, const MadeIndexKind& kind, WriteMode mode = {}) {
  KvIndexWriter writer(path, made_context(), kind.dtype, made_options(kind), mode, kMadePositions);
  for (int layer = writer.n_layers_done(); layer < 2; ++layer) {
    writer.write_layer(layer, made_index_layer(kind, layer), made_hidden(layer), made_queries(kind, layer));
  }
  writer.write_calibration(made_calibration(kind));
  writer.finish();
}

inline bool same_sketches(const SketchView& found, const Sketches& expected) {
  const SketchCodebooks& codebooks = expected.codebooks;
  return found.group_dim == codebooks.group_dim && !found.rotation.data() &&
         std::ranges::equal(found.dims, codebooks.dims) && std::ranges::equal(found.entries, codebooks.entries) &&
         std::ranges::equal(found.steps, codebooks.steps) && found.error == codebooks.error &&
         std::equal(expected.codes.begin(), expected.codes.end(), found.codes) &&
         std::equal(expected.scales.begin(), expected.scales.end(), found.scales);
}

// Whether the codes of a head are the signs of R x, and its scales |x|^2 / (x·code): the sketches of version 2 and 3.
// keys: [9, 3], those that are clustered, as they came.
inline bool are_sign_sketches(const HeadView& head, TensorView keys, int bits) {
  const Tensor rotation = random_rotation(3, kRotationSeed);
  const SketchView& sketches = head.sketches;
  if (!equal_tensors(sketches.rotation, rotation) || sketches.code_bytes() != bits) return false;
  const std::vector<int64_t> leaf_of = leaf_of_key(head);
  bool same = true;
  for (int64_t key = 0; key < 9; ++key) {
    std::vector<double> x = row_of(keys, key);
    const std::vector<double> centroid = row_of(head.levels.back().centroid_rows(), leaf_of[static_cast<size_t>(key)]);
    for (size_t c = 0; c < 3; ++c) x[c] -= centroid[c];
    const std::vector<double> turned = rotated(rotation, x), code = code_of(sketches, key, 3);
    for (size_t c = 0; c < 3; ++c) same = same && (std::abs(turned[c]) < 1e-6 || (turned[c] > 0) == (code[c] > 0));
    const double squares = dot_of(x, x), scale = sketch_scale(sketches, key);
    same = same && std::abs(scale * dot_of(turned, code) - squares) <= 0x1p-10 * squares + 1e-9;
  }
  return same;
}

// Whether an index holds what write_made_index writes.
inline bool is_made_index(const KvIndex& index, const MadeIndexKind& kind) {
  const Calibration calibration = made_calibration(kind);
  bool same = same_context(index.context(), made_context()) && index.dtype() == kind.dtype &&
              index.options().sketch_group == kind.group && index.options().sign_bits == kind.sign_bits &&
              index.options().quantise_centroids == kind.quantise && index.options().quantise_kv == kind.quantise_kv &&
              index.kv_dtype() == (kind.quantise_kv ? DType::i8 : kind.dtype) &&
              same_ints(index.query_positions(), kMadePositions) && same_calibration(index.calibration(), calibration);
  for (size_t i = 0; same && i < calibration.blocks.size(); ++i) {
    const HeadShares &found = index.calibration().blocks[i].shares, &expected = calibration.blocks[i].shares;
    same = found.n_layers == 2 && found.n_kv_heads == 2 && found.kept == expected.kept;
  }
  const ContextView view = index.view();
  for (int layer = 0; same && layer < 2; ++layer) {
    const IndexLayer expected = made_index_layer(kind, layer);
    same = equal_tensors(index.queries(layer), made_queries(kind, layer));
    for (int h = 0; same && h < 2; ++h) {
      const HeadView& head = view.layers[static_cast<size_t>(layer)][static_cast<size_t>(h)];
      same = same_head(head, expected.head(h)) &&
             (kind.sign_bits > 0
                  ? are_sign_sketches(head, made_index_layer(kind.dtype, layer).keys[h].slice(1, 10), kind.sign_bits)
                  : same_sketches(head.sketches, expected.heads[static_cast<size_t>(h)].sketches));
    }
  }
  return same;
}

}  // namespace squeeze
