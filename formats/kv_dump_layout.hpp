// Where everything lies in a KV dump (kv_dump.md): creating the file, and finding its arrays again.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "formats/h5.hpp"
#include "formats/kv_dump.hpp"

namespace squeeze {

struct DumpArray {
  std::string name;
  Shape shape;
  std::optional<h5::Extent> extent;  // none: has to be read through HDF5
};

struct DumpLayerArrays {
  DumpArray keys, values, queries;
};

struct DumpLayout {
  Context context;
  DumpSpec spec;
  std::vector<DumpLayerArrays> layers;
  std::vector<std::vector<DumpLayerArrays>> probes;  // [n_probes][n_layers]
};

// Throws if the spec does not fit the context; `path` names the file in errors.
void check_spec(const std::string& path, const Context& context, const DumpSpec& spec);
void create_dump(const std::string& path, const Context& context, const DumpSpec& spec);
// Every dataset's presence, type, shape and place is checked.
DumpLayout read_dump_layout(const h5::Reader& file);

}  // namespace squeeze
