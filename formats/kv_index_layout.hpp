// Where everything lies in an index (kv_index.md): creating the file, finding its arrays again, viewing its layers.
#pragma once

#include <string>
#include <vector>

#include "formats/h5.hpp"
#include "formats/kv_index_calibration.hpp"
#include "formats/mapped_file.hpp"
#include "lib/index/build.hpp"
#include "lib/index/head_index.hpp"
#include "lib/index/sign_sketches.hpp"
#include "lib/model/context.hpp"

namespace squeeze {

// Each array is [n_kv_heads, ...], its clusters padded to max_clusters.
struct LevelExtents {
  int64_t max_clusters = 0;
  h5::Extent centroids, value_means, first_row, first_child, n_clusters;
  h5::Extent centroid_scales, value_scales;  // of i8 centroids; else none
};

struct IndexLayerExtents {
  h5::Extent keys, values, token_of_row;
  h5::Extent key_scales, value_scales;                                 // of i8 keys and values; else none
  h5::Extent queries;                                                  // none in an index without queries
  h5::Extent sketches, sketch_scales;                                  // none in an index without sketches
  h5::Extent sketch_dims, sketch_entries, sketch_steps, sketch_error;  // nor in one of version 2 or 3
  std::vector<LevelExtents> levels;
};

struct IndexLayout {
  Context context;
  DType dtype = DType::bf16;  // of queries, and of all that is not i8
  IndexOptions options;
  std::vector<int32_t> query_positions;
  std::vector<IndexLayerExtents> layers;
  SignSketches signs = {};  // of an index of version 2 or 3

  Shape queries_shape() const {
    return {context.model.n_query_heads, static_cast<int64_t>(query_positions.size()), context.model.head_dim};
  }

  DType kv_dtype() const { return options.quantise_kv ? DType::i8 : dtype; }
  DType centroid_dtype() const { return options.quantise_centroids ? DType::i8 : dtype; }

  int64_t n_clustered() const { return context.n_tokens() - options.n_sinks - options.n_window; }
};

CalibrationShape calibration_shape(const IndexLayout& layout);

// Throws if the options do not fit the context; `path` names the file in errors.
void check_index_options(const std::string& path, const IndexOptions& options, int64_t n_tokens);
void create_index(const std::string& path, const Context& context, DType dtype, const IndexOptions& options,
                  const std::vector<int32_t>& query_positions);
// Every dataset's presence, type, shape and place is checked.
IndexLayout read_index_layout(const h5::Reader& file);

// The heads of a layer. Checks what keeps every later access inside its arrays: cluster counts, rows and children
// ascending and nested, tokens in range. `path` names the file in errors.
std::vector<HeadView> layer_heads(const std::string& path, const MappedFile& mapped, const IndexLayout& layout,
                                  int layer);

}  // namespace squeeze
