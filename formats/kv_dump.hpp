// Reader and writer of KV dumps (kv_dump.md): a text's keys, values and calibration queries, layer by layer.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "formats/partial_file.hpp"
#include "lib/model/context.hpp"

namespace squeeze {

struct DumpSpec {
  DType dtype = DType::bf16;
  std::vector<int32_t> query_positions;      // ascending
  std::vector<std::vector<int32_t>> probes;  // tokens of each probe question
  std::vector<std::string> probe_texts;      // same order
};

class KvDumpWriter {
 public:
  // Writes NAME.partial; allocates the whole file, so that a full disk is noticed here. Throws if a partial file that
  // is to be resumed was begun with another model, text or spec.
  KvDumpWriter(const std::string& path, const Context& context, const DumpSpec& spec, WriteMode mode);
  ~KvDumpWriter();

  int n_layers_done() const;
  Tensor hidden() const;  // the hidden states saved with the last whole layer; without data if none
  // In order, from n_layers_done() or, where hidden() is needed and has no data, from an earlier layer again.
  // hidden_after: saved for --resume; may be empty.
  void write_layer(int layer, const KvLayer& context, const std::vector<KvLayer>& probes, TensorView hidden_after);
  void finish();  // renames to NAME; throws if a layer is missing

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

struct KvLayerView {
  TensorView keys;     // [n_kv_heads, n_tokens, head_dim]
  TensorView values;   // [n_kv_heads, n_tokens, head_dim]
  TensorView queries;  // [n_query_heads, n_queries, head_dim]
};

// Data that is not stored contiguously in one of our types (a program rewrote the file) is converted to dtype() when
// its layer is first asked for, and kept in memory.
class KvDump {
 public:
  explicit KvDump(const std::string& path);
  ~KvDump();
  KvDump(KvDump&&) noexcept;

  const std::string& path() const;
  const Context& context() const;
  DType dtype() const;  // of the first layer's keys; the rest is converted to it
  int64_t file_bytes() const;
  std::span<const int32_t> query_positions() const;
  KvLayerView layer(int layer) const;  // mapped; valid as long as this; from any thread
  int n_probes() const;
  const std::string& probe_text(int probe) const;
  std::span<const int32_t> probe_tokens(int probe) const;
  KvLayerView probe_layer(int probe, int layer) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace squeeze
