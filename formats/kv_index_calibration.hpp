// The group /calibration of an index: quantile functions per query-block size and level.
#pragma once

#include <cstddef>

#include "formats/h5.hpp"
#include "formats/partial_file.hpp"
#include "lib/index/calibration.hpp"

namespace squeeze {

// Room for the calibration of up to 8 block sizes.
void create_calibration(h5::Skeleton& file, size_t n_levels);

struct CalibrationExtents {
  h5::Extent n_queries, from_probes, upper_keep, block_sizes, flat, pruned;
};
CalibrationExtents find_calibration(const h5::Reader& file, size_t n_levels);

// Throws if the calibration does not fit the room that was made for it.
void save_calibration(PartialFile& file, const CalibrationExtents& extents, size_t n_levels,
                      const Calibration& calibration);
Calibration load_calibration(const h5::Reader& file, size_t n_levels);

}  // namespace squeeze
