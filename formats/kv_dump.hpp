// Reader and writer of KV dumps (kv_dump.md): a text's keys, values and calibration queries, layer by layer.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "lib/model/context.hpp"

namespace squeeze {

struct WriteMode {
  bool force = false;   // replace an existing file
  bool resume = false;  // continue NAME.partial after its last whole layer, if there is one
};

struct DumpSpec {
  DType dtype = DType::bf16;
  std::vector<int32_t> query_positions;      // ascending
  std::vector<std::vector<int32_t>> probes;  // tokens of each probe question
  std::vector<std::string> probe_texts;      // same order
};

class KvDumpWriter {
 public:
  // Writes NAME.partial; allocates the whole file, so that a full disk is noticed here.
  KvDumpWriter(const std::string& path, const Context& context, const DumpSpec& spec, WriteMode mode);
  ~KvDumpWriter();

  int n_layers_done() const;
  Tensor hidden() const;  // the hidden states saved with the last whole layer; empty if none
  // hidden_after: saved for --resume; may be empty (then a killed run starts again).
  void write_layer(int layer, const KvLayer& context, const std::vector<KvLayer>& probes, TensorView hidden_after);
  void finish();          // renames to NAME; throws if a layer is missing

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

struct KvLayerView {
  TensorView keys;     // [n_kv_heads, n_tokens, head_dim]
  TensorView values;   // [n_kv_heads, n_tokens, head_dim]
  TensorView queries;  // [n_query_heads, n_queries, head_dim]
};

class KvDump {
 public:
  explicit KvDump(const std::string& path);
  ~KvDump();
  KvDump(KvDump&&) noexcept;

  const std::string& path() const;
  const Context& context() const;
  DType dtype() const;
  std::span<const int32_t> query_positions() const;
  KvLayerView layer(int layer) const;              // mapped; valid as long as this
  int n_probes() const;
  const std::string& probe_text(int probe) const;
  std::span<const int32_t> probe_tokens(int probe) const;
  KvLayerView probe_layer(int probe, int layer) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace squeeze
