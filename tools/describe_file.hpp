// What squeeze-inspect FILE prints: what a dump or an index holds, and the check of its laws.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "formats/kv_index.hpp"

namespace squeeze {

// Model, text, shapes, options, levels and calibration of an index.
nlohmann::ordered_json describe_index(const KvIndex& index);

// Prints model, text, shapes, sizes, options and integrity; as JSON if asked. Opens the file with all its checks.
void describe_file(const std::string& path, bool json);

// Checks the laws of an index: rows are a permutation, clusters partition them, centroids and value means are means;
// with the dump it was built from (dump_path not empty): rows equal the dump's, full budget equals dense attention,
// sparsity asked for is sparsity measured; cuda: and the selected device attends as the CPU does. Prints one line per
// law; returns the number that do not hold.
int verify_index(const std::string& path, const std::string& dump_path, bool cuda = false);

}  // namespace squeeze
