// The table of built layers.
#include "tools/build_table.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "tools/tool.hpp"

namespace squeeze {
namespace {

// Rows that keep their type are not rounded.
template <class Row>
void add_errors(const Row& row, nlohmann::ordered_json& json) {
  if (row.key_error.n_rows == 0) return;
  json["key_error"] = row.key_error.root_mean_square();
  json["value_error"] = row.value_error.root_mean_square();
}

}  // namespace

int64_t cache_bytes(const Context& context, DType dtype) {
  const ModelInfo& m = context.model;
  return 2 * context.n_tokens() * m.n_layers * m.n_kv_heads * m.head_dim * static_cast<int64_t>(size_of(dtype));
}

BuildTable::BuildTable(bool json) : json_(json) {
  if (json) return;
  fmt::print("{:>5}  {:>14}  {:>8}  {:>8}  {:>8}  {:>8}\n", "layer", "clusters", "biggest", "smallest", "inertia",
             "seconds");
}

void BuildTable::add(int layer, const IndexLayer& index, double seconds) {
  rows_.push_back(summarise(layer, index, seconds));
  if (!json_) print(rows_.back());
}

BuildTable::Row BuildTable::summarise(int layer, const IndexLayer& index, double seconds) {
  Row row{layer, std::vector<int64_t>(index.heads[0].levels.size()), 0, INT32_MAX, 0, seconds, {}, {}};
  for (const HeadIndex& head : index.heads) {
    for (size_t k = 0; k < head.levels.size(); ++k) row.clusters[k] += head.levels[k].view().n_clusters();
    const LevelView leaves = head.levels.back().view();
    for (int64_t i = 0; i < leaves.n_clusters(); ++i) {
      row.biggest = std::max(row.biggest, leaves.n_rows(i));
      row.smallest = std::min(row.smallest, leaves.n_rows(i));
    }
    row.inertia += head.inertia / static_cast<double>(index.heads.size());
    row.key_error.add(head.key_error);
    row.value_error.add(head.value_error);
  }
  return row;
}

void BuildTable::print(const Row& row) {
  end_progress();
  std::string clusters;
  for (const int64_t n : row.clusters) clusters += fmt::format("{}{}", clusters.empty() ? "" : " / ", n);
  fmt::print("{:>5}  {:>14}  {:>8}  {:>8}  {:>8.4f}  {:>8.2f}\n", row.layer, clusters, row.biggest, row.smallest,
             row.inertia, row.seconds);
  std::fflush(stdout);
}

BuildTable::Row BuildTable::total() const {
  Row total;
  for (const Row& row : rows_) {
    total.key_error.add(row.key_error);
    total.value_error.add(row.value_error);
  }
  return total;
}

void BuildTable::finish(const std::string& path, const Context& context, DType dtype, double seconds) const {
  const auto bytes = static_cast<int64_t>(std::filesystem::file_size(path));
  const double share = double(bytes) / double(cache_bytes(context, dtype));
  const Row all = total();
  if (!json_) {
    if (all.key_error.n_rows > 0) {
      fmt::print("keys and values in 8 bits: root-mean-square relative error {:.2f} % and {:.2f} %\n",
                 100 * all.key_error.root_mean_square(), 100 * all.value_error.root_mean_square());
    }
    fmt::print("{}: {} ({:.1f} % of the KV cache), {:.1f} s\n", path, human_bytes(double(bytes)), 100 * share, seconds);
    return;
  }
  nlohmann::ordered_json layers = nlohmann::ordered_json::array();
  for (const Row& row : rows_) {
    layers.push_back({{"layer", row.layer},
                      {"clusters", row.clusters},
                      {"biggest", row.biggest},
                      {"smallest", row.smallest},
                      {"inertia", row.inertia},
                      {"seconds", row.seconds}});
    add_errors(row, layers.back());
  }
  nlohmann::ordered_json summary = {{"output", path},     {"n_tokens", context.n_tokens()},
                                    {"bytes", bytes},     {"of_kv_cache", share},
                                    {"seconds", seconds}, {"layers", layers}};
  add_errors(all, summary);
  fmt::print("{}\n", summary.dump());
}

}  // namespace squeeze
