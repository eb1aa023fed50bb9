// The group /calibration of an index: quantile functions per query-block size and stage, and the heads' shares.
#pragma once

#include <cstddef>

#include "formats/h5.hpp"
#include "formats/partial_file.hpp"
#include "lib/index/calibration.hpp"

namespace squeeze {

struct CalibrationShape {
  size_t n_levels = 0;
  bool sketches = false;
  int64_t n_layers = 0, n_kv_heads = 0;

  size_t n_stages() const { return n_levels + (sketches ? 1 : 0); }
};

// Room for the calibration of up to 8 block sizes.
void create_calibration(h5::Skeleton& file, const CalibrationShape& shape);

struct CalibrationExtents {
  h5::Extent n_queries, from_probes, upper_keep, block_sizes, flat, pruned, gqa_select, head_shares;
};
CalibrationExtents find_calibration(const h5::Reader& file, const CalibrationShape& shape);

// Throws if the calibration does not fit the room that was made for it.
void save_calibration(PartialFile& file, const CalibrationExtents& extents, const CalibrationShape& shape,
                      const Calibration& calibration);
Calibration load_calibration(const h5::Reader& file, const CalibrationShape& shape);

}  // namespace squeeze
