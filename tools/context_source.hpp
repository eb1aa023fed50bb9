// A model and a text, ready for prefill: what squeeze-dump and the one-step squeeze-build have in common.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "formats/hf_model.hpp"
#include "lib/core/progress.hpp"
#include "lib/model/prefill.hpp"

namespace CLI {
class App;
}

namespace squeeze {

struct SourceOptions {
  std::string model;
  std::vector<std::string> context;  // files, folders or "-"
  std::string probes;                // JSONL of requests whose prompts are recorded after the context
  std::string precision = "bf16";
  std::string dtype = "bf16";
  int64_t chunk = 512;
  int64_t window = 100;
};

void bind_source(CLI::App& app, SourceOptions& options);

// Loads the model, reads and encodes the text and the probes. Throws if the text is empty.
class ContextSource {
 public:
  // cuda: the forward pass runs on the device. Throws (bad usage) if it does not have the types that the options ask
  // for.
  ContextSource(const SourceOptions& options, bool cuda);

  const Context& context() const { return context_; }
  DType dtype() const { return dtype_; }
  std::vector<int32_t> query_positions() const;  // the last `window` tokens, or all if there are fewer
  const std::vector<std::vector<int32_t>>& probes() const { return probes_; }
  const std::vector<std::string>& probe_texts() const { return probe_texts_; }
  const ModelConfig& config() const { return model_.config(); }

  // What the run holds in memory besides the mapped weights.
  int64_t memory_bytes() const;
  void run(int first_layer, Tensor hidden, const std::function<void(const PrefilledLayer&)>& sink,
           const Progress& progress);

 private:
  void encode(const std::vector<std::string>& paths);
  void encode_probes(const std::string& path);

  SourceOptions options_;
  bool cuda_;
  DType dtype_;
  HfModel model_;
  Tokenizer tokenizer_;
  Context context_;
  std::vector<std::vector<int32_t>> probes_;
  std::vector<std::string> probe_texts_;
};

DType parse_dtype(const std::string& name);  // checked by bind_source
Precision parse_precision(const std::string& name);
// The forward pass on the device that was chosen. Throws (bad usage) if it does not have the precision.
std::unique_ptr<Operations> operations_for(const std::string& precision, bool cuda, bool graphs = true);

}  // namespace squeeze
