// Small dumps and indexes with known contents, for the tests of the file formats.
//
// Values are multiples of 1/16 below 2 in magnitude, which every element type holds exactly, and come from integer
// arithmetic, so that the files in golden/files can be compared with them on any machine.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "formats/kv_dump.hpp"
#include "formats/kv_index.hpp"
#include "lib/core/error.hpp"
#include "tests/temporary_folder.hpp"

namespace squeeze {

inline void write_bytes(const std::string& path, const std::string& bytes) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  REQUIRE(file.good());
}

inline bool exists(const std::string& path) { return std::filesystem::exists(path); }

// The message of the Error that `body` throws; empty if it throws none.
template <class Body>
std::string error_of(Body&& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

inline bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

inline Tensor made_tensor(DType dtype, Shape shape, int64_t seed) {
  Tensor out(dtype, shape);
  for (int64_t i = 0; i < out.n_elements(); ++i) {
    const int64_t sixteenths = (i * 37 + i / 7 * 5 + seed * 101) % 63 - 31;
    store_element(out.data(), dtype, i, static_cast<float>(sixteenths) / 16.0f);
  }
  return out;
}

inline bool equal_tensors(TensorView a, TensorView b) {
  return a.dtype() == b.dtype() && a.shape() == b.shape() &&
         (a.n_bytes() == 0 || std::memcmp(a.data(), b.data(), a.n_bytes()) == 0);
}

// 12 tokens, 2 layers, 4 query heads over 2 KV heads of 3 dimensions, two documents.
inline Context made_context() {
  Context context;
  context.model = {"made", "0123abcd", 2, 4, 2, 3, 0.57735026f, R"({"theta": 10000.0})"};
  for (int32_t i = 0; i < 12; ++i) context.tokens.push_back(i * 31 % 97);
  context.text = "A short text, with an é.";
  context.documents = {{"one.txt", 0}, {"two/é.txt", 5}};
  return context;
}

inline DumpSpec made_spec(DType dtype) { return {dtype, {9, 10, 11}, {{5, 6}, {7}}, {"What?", ""}}; }

inline KvLayer made_kv(DType dtype, int64_t n_tokens, int64_t n_queries, int64_t seed) {
  return {made_tensor(dtype, {2, n_tokens, 3}, seed), made_tensor(dtype, {2, n_tokens, 3}, seed + 1),
          made_tensor(dtype, {4, n_queries, 3}, seed + 2)};
}

inline KvLayer made_dump_layer(DType dtype, int layer) { return made_kv(dtype, 12, 3, 10 * layer); }

inline std::vector<KvLayer> made_dump_probes(DType dtype, int layer) {
  std::vector<KvLayer> probes;
  probes.push_back(made_kv(dtype, 2, 2, 10 * layer + 3));
  probes.push_back(made_kv(dtype, 1, 1, 10 * layer + 6));
  return probes;
}

inline Tensor made_hidden(int layer) { return made_tensor(DType::f32, {15, 8}, 50 + layer); }

inline void write_dump_layers(KvDumpWriter& writer, DType dtype, int begin, int end) {
  for (int layer = begin; layer < end; ++layer) {
    writer.write_layer(layer, made_dump_layer(dtype, layer), made_dump_probes(dtype, layer), made_hidden(layer));
  }
}

inline void write_made_dump(const std::string& path, DType dtype, WriteMode mode = {}) {
  KvDumpWriter writer(path, made_context(), made_spec(dtype), mode);
  write_dump_layers(writer, dtype, writer.n_layers_done(), 2);
  writer.finish();
}

inline bool same_context(const Context& a, const Context& b) {
  bool same = a.tokens == b.tokens && a.text == b.text && a.documents.size() == b.documents.size() &&
              a.model.model_name == b.model.model_name && a.model.model_fingerprint == b.model.model_fingerprint &&
              a.model.n_layers == b.model.n_layers && a.model.n_query_heads == b.model.n_query_heads &&
              a.model.n_kv_heads == b.model.n_kv_heads && a.model.head_dim == b.model.head_dim &&
              a.model.softmax_scale == b.model.softmax_scale && a.model.rope == b.model.rope;
  for (size_t i = 0; same && i < a.documents.size(); ++i) {
    same = a.documents[i].name == b.documents[i].name && a.documents[i].first_token == b.documents[i].first_token;
  }
  return same;
}

inline bool same_layer(const KvLayerView& a, const KvLayer& b) {
  return equal_tensors(a.keys, b.keys) && equal_tensors(a.values, b.values) && equal_tensors(a.queries, b.queries);
}

// Whether a dump holds what write_made_dump writes.
inline bool is_made_dump(const KvDump& dump, DType dtype) {
  const DumpSpec spec = made_spec(dtype);
  bool same = same_context(dump.context(), made_context()) && dump.dtype() == dtype && dump.n_probes() == 2 &&
              std::equal(dump.query_positions().begin(), dump.query_positions().end(), spec.query_positions.begin(),
                         spec.query_positions.end());
  for (int layer = 0; same && layer < 2; ++layer) {
    const std::vector<KvLayer> probes = made_dump_probes(dtype, layer);
    same = same_layer(dump.layer(layer), made_dump_layer(dtype, layer));
    for (int p = 0; same && p < 2; ++p) {
      const auto tokens = dump.probe_tokens(p);
      const auto i = static_cast<size_t>(p);
      same = std::equal(tokens.begin(), tokens.end(), spec.probes[i].begin(), spec.probes[i].end()) &&
             dump.probe_text(p) == spec.probe_texts[i] && same_layer(dump.probe_layer(p, layer), probes[i]);
    }
  }
  return same;
}

inline IndexOptions made_options() {
  IndexOptions options;
  options.levels = {{0, 2}, {0.33, 0}};  // room for 2 and 4 clusters
  options.n_sinks = 1;
  options.n_window = 2;
  options.metric = Metric::l2;
  options.iterations = 7;
  options.seed = 0xfedcba9876543210u;
  return options;
}

inline Level made_level(DType dtype, std::vector<int32_t> rows, std::vector<int32_t> children, int64_t seed) {
  const auto n = static_cast<int64_t>(rows.size()) - 1;
  return {made_tensor(dtype, {n, 3}, seed), made_tensor(dtype, {n, 3}, seed + 1), std::move(rows), std::move(children)};
}

// Nine clustered rows: 4 leaves below 2 clusters in head 0, 3 below 1 in head 1.
inline IndexLayer made_index_layer(DType dtype, int layer) {
  const int64_t seed = 20 * layer;
  IndexLayer index;
  index.keys = made_tensor(dtype, {2, 12, 3}, seed);
  index.values = made_tensor(dtype, {2, 12, 3}, seed + 1);
  index.n_sinks = 1;
  index.n_window = 2;
  index.heads.resize(2);
  index.heads[0].token_of_row = {0, 4, 9, 1, 2, 3, 5, 6, 7, 8, 10, 11};
  index.heads[0].levels.push_back(made_level(dtype, {1, 5, 10}, {0, 2, 4}, seed + 2));
  index.heads[0].levels.push_back(made_level(dtype, {1, 3, 5, 8, 10}, {}, seed + 4));
  index.heads[1].token_of_row = {0, 7, 8, 9, 4, 5, 6, 1, 2, 3, 10, 11};
  index.heads[1].levels.push_back(made_level(dtype, {1, 10}, {0, 3}, seed + 6));
  index.heads[1].levels.push_back(made_level(dtype, {1, 4, 7, 10}, {}, seed + 8));
  return index;
}

inline Calibration made_calibration() {
  const size_t n = sparsity_grid().size();
  const auto function = [n](float start) {
    QuantileFunction f;
    for (size_t i = 0; i < n; ++i) f.thresholds.push_back(start + static_cast<float>(i) / 1024.0f);
    return f;
  };
  Calibration calibration;
  calibration.source = "probes";
  calibration.n_queries = 17;
  calibration.upper_keep = {0.75};
  calibration.blocks = {{1, {function(0.f), function(1.f)}, {function(2.f), function(3.f)}},
                        {8, {function(4.f), function(5.f)}, {function(6.f), function(7.f)}}};
  return calibration;
}

inline void write_made_index(const std::string& path, DType dtype, WriteMode mode = {}) {
  KvIndexWriter writer(path, made_context(), dtype, made_options(), mode);
  for (int layer = writer.n_layers_done(); layer < 2; ++layer) {
    writer.write_layer(layer, made_index_layer(dtype, layer), made_hidden(layer));
  }
  writer.write_calibration(made_calibration());
  writer.finish();
}

inline bool same_ints(std::span<const int32_t> a, const std::vector<int32_t>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end());
}

inline bool same_head(const HeadView& a, const HeadView& b) {
  bool same = equal_tensors(a.keys, b.keys) && equal_tensors(a.values, b.values) && a.n_sinks == b.n_sinks &&
              std::ranges::equal(a.key_scales, b.key_scales) && std::ranges::equal(a.value_scales, b.value_scales) &&
              a.n_window == b.n_window &&
              std::equal(a.token_of_row.begin(), a.token_of_row.end(), b.token_of_row.begin()) &&
              a.levels.size() == b.levels.size();
  for (size_t i = 0; same && i < a.levels.size(); ++i) {
    const LevelView& x = a.levels[i];
    const LevelView& y = b.levels[i];
    same = equal_tensors(x.centroids, y.centroids) && equal_tensors(x.value_means, y.value_means) &&
           std::equal(x.first_row.begin(), x.first_row.end(), y.first_row.begin(), y.first_row.end()) &&
           std::equal(x.first_child.begin(), x.first_child.end(), y.first_child.begin(), y.first_child.end()) &&
           std::ranges::equal(x.centroid_scales, y.centroid_scales) &&
           std::ranges::equal(x.value_scales, y.value_scales);
  }
  return same;
}

inline bool is_made_layer(const std::vector<HeadView>& heads, DType dtype, int layer) {
  const IndexLayer expected = made_index_layer(dtype, layer);
  return heads.size() == 2 && same_head(heads[0], expected.head(0)) && same_head(heads[1], expected.head(1));
}

inline bool same_calibration(const Calibration& a, const Calibration& b) {
  bool same = a.source == b.source && a.n_queries == b.n_queries && a.gqa == b.gqa && a.sketches == b.sketches &&
              a.upper_keep == b.upper_keep && a.blocks.size() == b.blocks.size();
  for (size_t i = 0; same && i < a.blocks.size(); ++i) {
    const auto same_functions = [](const QuantileFunction& x, const QuantileFunction& y) {
      return x.thresholds == y.thresholds;
    };
    same = a.blocks[i].block_size == b.blocks[i].block_size &&
           std::equal(a.blocks[i].flat.begin(), a.blocks[i].flat.end(), b.blocks[i].flat.begin(),
                      b.blocks[i].flat.end(), same_functions) &&
           std::equal(a.blocks[i].pruned.begin(), a.blocks[i].pruned.end(), b.blocks[i].pruned.begin(),
                      b.blocks[i].pruned.end(), same_functions);
  }
  return same;
}

// Whether an index holds what write_made_index writes.
inline bool is_made_index(const KvIndex& index, DType dtype) {
  const IndexOptions expected = made_options();
  const IndexOptions& options = index.options();
  bool same = same_context(index.context(), made_context()) && index.dtype() == dtype &&
              options.n_sinks == expected.n_sinks && options.n_window == expected.n_window &&
              options.metric == expected.metric && options.iterations == expected.iterations &&
              options.seed == expected.seed && options.levels.size() == 2 && options.levels[0].count == 2 &&
              options.levels[1].share == 0.33 && same_calibration(index.calibration(), made_calibration());
  const ContextView view = index.view();
  for (int layer = 0; same && layer < 2; ++layer) {
    same = is_made_layer(view.layers[static_cast<size_t>(layer)], dtype, layer);
  }
  return same;
}

}  // namespace squeeze
