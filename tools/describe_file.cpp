// Descriptions of dumps and indexes.
#include "tools/describe_file.hpp"

#include <fmt/format.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "formats/kv_context.hpp"
#include "tools/tool.hpp"

namespace squeeze {
namespace {

using Json = nlohmann::ordered_json;

Json context_json(const Context& context) {
  const ModelInfo& m = context.model;
  Json documents = Json::array();
  for (size_t i = 0; i < context.documents.size(); ++i) {
    const bool last = i + 1 == context.documents.size();
    const int64_t end = last ? context.n_tokens() : context.documents[i + 1].first_token;
    documents.push_back({{"name", context.documents[i].name},
                         {"first_token", context.documents[i].first_token},
                         {"n_tokens", end - context.documents[i].first_token}});
  }
  return {{"model_name", m.model_name},
          {"model_fingerprint", m.model_fingerprint},
          {"n_layers", m.n_layers},
          {"n_query_heads", m.n_query_heads},
          {"n_kv_heads", m.n_kv_heads},
          {"head_dim", m.head_dim},
          {"softmax_scale", m.softmax_scale},
          {"rope", Json::parse(m.rope, nullptr, false)},
          {"n_tokens", context.n_tokens()},
          {"text_bytes", context.text.size()},
          {"documents", documents}};
}

Json dump_json(const KvDump& dump) {
  Json probes = Json::array();
  for (int i = 0; i < dump.n_probes(); ++i) {
    probes.push_back({{"text", dump.probe_text(i)}, {"n_tokens", dump.probe_tokens(i).size()}});
  }
  Json info = context_json(dump.context());
  info["dtype"] = name_of(dump.dtype());
  info["n_queries"] = dump.query_positions().size();
  info["probes"] = probes;
  return info;
}

// The index's bytes of one level of one head: centroids, value means, first rows and first children.
int64_t level_bytes(const LevelView& level) {
  return static_cast<int64_t>(level.centroids.n_bytes() + level.value_means.n_bytes() + level.first_row.size_bytes() +
                              level.first_child.size_bytes());
}

// Clusters per level, over all layers and heads, their bytes, and the biggest cluster.
Json levels_json(const ContextView& view) {
  Json levels = Json::array();
  for (size_t k = 0; k < view.layers[0][0].levels.size(); ++k) {
    int64_t clusters = 0, heads = 0, bytes = 0;
    int32_t biggest = 0;
    for (const auto& layer : view.layers) {
      for (const HeadView& head : layer) {
        const LevelView& level = head.levels[k];
        clusters += level.n_clusters();
        bytes += level_bytes(level);
        ++heads;
        for (int64_t i = 0; i < level.n_clusters(); ++i) biggest = std::max(biggest, level.n_rows(i));
      }
    }
    levels.push_back({{"clusters_per_head", double(clusters) / double(heads)},
                      {"biggest", biggest},
                      {"n_clusters", clusters},
                      {"bytes", bytes}});
  }
  return levels;
}

// Bits per dimension, 0 without sketches; of learned codes also what they miss: the squared miss over the squared
// scale, on average over layers and heads.
Json sketches_json(const KvIndex& index) {
  const IndexOptions& options = index.options();
  if (options.sketch_group == 0) return {{"bits", options.sign_bits}};
  double sum = 0;
  int64_t n = 0;
  for (const std::vector<HeadView>& layer : index.view().layers) {
    for (const HeadView& head : layer) {
      sum += double{head.sketches.error} * double(head.keys.size(1));
      ++n;
    }
  }
  return {{"bits", 4.0 / options.sketch_group}, {"miss", std::round(1e4 * sum / double(n)) / 1e4}};
}

}  // namespace

Json describe_index(const KvIndex& index) {
  Json info = context_json(index.context());
  const IndexOptions& options = index.options();
  const Calibration& calibration = index.calibration();
  std::vector<int> blocks;
  for (const BlockCalibration& block : calibration.blocks) blocks.push_back(block.block_size);
  info["dtype"] = name_of(index.dtype());
  info["kv"] = name_of(index.kv_dtype());
  info["sinks"] = options.n_sinks;
  info["window"] = options.n_window;
  info["metric"] = options.metric == Metric::cosine ? "cosine" : "l2";
  info["iterations"] = options.iterations;
  info["seed"] = options.seed;
  info["levels"] = levels_json(index.view());
  info["sketches"] = sketches_json(index);
  info["calibration"] = {{"source", calibration.source},
                         {"n_queries", calibration.n_queries},
                         {"upper_keep", calibration.upper_keep},
                         {"block_sizes", blocks}};
  return info;
}

namespace {

// One line a fact: nested objects are indented, arrays of objects get a line each.
void print_facts(const Json& info, int indent) {
  for (const auto& [name, value] : info.items()) {
    if (value.is_object()) {
      fmt::print("{:{}}{}\n", "", indent, name);
      print_facts(value, indent + 2);
    } else if (value.is_array() && !value.empty() && value[0].is_object()) {
      fmt::print("{:{}}{}\n", "", indent, name);
      for (const Json& row : value) fmt::print("{:{}}{}\n", "", indent + 2, row.dump());
    } else {
      fmt::print("{:{}}{:<18} {}\n", "", indent, name, value.is_string() ? value.get<std::string>() : value.dump());
    }
  }
}

}  // namespace

void describe_file(const std::string& path, bool json) {
  const std::string format = format_of(path);
  Json info = {{"file", path}, {"format", format}, {"bytes", std::filesystem::file_size(path)}};
  const Json rest = format == "squeeze-index" ? describe_index(KvIndex(path)) : dump_json(KvDump(path));
  info.update(rest);
  info["integrity"] = "shapes, types and sizes hold";
  if (json) {
    fmt::print("{}\n", info.dump(2));
  } else {
    print_facts(info, 0);
  }
}

}  // namespace squeeze
