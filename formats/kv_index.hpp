// Reader and writer of indexes (kv_index.md): keys and values in tree order, the cluster levels, the calibration.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "formats/kv_dump.hpp"
#include "lib/attention/context_attention.hpp"
#include "lib/index/build.hpp"
#include "lib/index/calibration.hpp"

namespace squeeze {

class KvIndexWriter {
 public:
  // Writes NAME.partial, allocated whole. The index remembers the options that it was built with. Throws if a partial
  // file that is to be resumed was begun with another model, text, type or options.
  // query_positions: of the calibration queries that come with each layer, ascending; empty: the index keeps none.
  KvIndexWriter(const std::string& path, const Context& context, DType dtype, const IndexOptions& options,
                WriteMode mode, const std::vector<int32_t>& query_positions = {});
  ~KvIndexWriter();

  int n_layers_done() const;
  Tensor hidden() const;  // as in KvDumpWriter: one-step builds resume too
  // queries: [n_query_heads, n_queries, head_dim].
  void write_layer(int layer, const IndexLayer& index, TensorView hidden_after, TensorView queries = {});
  std::vector<HeadView> layer(int layer) const;  // a written layer, mapped: calibration reads it back
  TensorView queries(int layer) const;           // of a written layer, mapped; throws if the index keeps none
  void write_calibration(const Calibration& calibration);
  void finish();  // renames to NAME; throws if a layer or the calibration is missing

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

class KvIndex {
 public:
  explicit KvIndex(const std::string& path);
  ~KvIndex();
  KvIndex(KvIndex&&) noexcept;

  const std::string& path() const;
  const Context& context() const;
  DType dtype() const;     // of queries, and of all rows that are not i8: the type of the keys as they came
  DType kv_dtype() const;  // of keys and values: i8, or dtype()
  const IndexOptions& options() const;
  const Calibration& calibration() const;
  ContextView view() const;                          // mapped; valid as long as this
  std::span<const int32_t> query_positions() const;  // empty if the index keeps no queries
  TensorView queries(int layer) const;  // [n_query_heads, n_queries, head_dim], mapped; throws if there are none
  int64_t file_bytes() const;
  int64_t kv_bytes() const;  // of the whole K and V as they are stored, scales included

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace squeeze
