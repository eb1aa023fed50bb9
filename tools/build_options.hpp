// The options of squeeze-build, and what they ask of the index.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "lib/index/build.hpp"
#include "lib/index/calibrate.hpp"
#include "tools/context_source.hpp"
#include "tools/tool.hpp"

namespace squeeze {

struct BuildOptions {
  CommonOptions common;
  SourceOptions source;
  std::string input, output;
  std::string leaf = "2.5%", coarse = "auto", metric = "cosine", centroids = "int8", calibrate = "window";
  std::string gqa_select = "group-mean", kv = "keys", sketch = "1";
  std::vector<std::string> levels;
  IndexOptions index;  // without what has words of its own
  double coarse_keep = 0, sketch_keep = kDefaultSketchKeep;
  bool resume = false, force = false, dry_run = false, json = false;
};

void bind_build(CLI::App& app, BuildOptions& o);

// Throws on a level that is neither a share nor a number of clusters.
IndexOptions index_options(const BuildOptions& o, int64_t n_tokens);
// What each stage above the last lets through.
std::vector<double> upper_keep(const BuildOptions& o, const IndexOptions& options, int64_t n_tokens);
GqaSelect gqa_select(const BuildOptions& o);

}  // namespace squeeze
