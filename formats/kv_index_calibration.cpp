// Calibration on disk.
#include "formats/kv_index_calibration.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "lib/core/error.hpp"

namespace squeeze {
namespace {

constexpr int64_t kMaxBlocks = 8;
constexpr double kGridTolerance = 1e-9;

Shape quantiles_shape(size_t n_levels) {
  return {kMaxBlocks, static_cast<int64_t>(n_levels), static_cast<int64_t>(sparsity_grid().size())};
}

Shape shares_shape(const CalibrationShape& shape) {
  return {kMaxBlocks, static_cast<int64_t>(share_grid().size()), shape.n_layers, shape.n_kv_heads};
}

bool is_quantile_function(std::span<const float> thresholds) {
  const auto is_nan = [](float threshold) { return std::isnan(threshold); };
  return std::none_of(thresholds.begin(), thresholds.end(), is_nan) &&
         std::is_sorted(thresholds.begin(), thresholds.end());
}

void check_shares(const std::string& path, const HeadShares& shares, const CalibrationShape& shape) {
  if (shares.kept.empty()) return;
  const bool sane = std::all_of(shares.kept.begin(), shares.kept.end(), [](float x) { return x >= 0 && x <= 1.001f; });
  if (!sane || shares.n_layers != shape.n_layers || shares.n_kv_heads != shape.n_kv_heads) {
    fail("{}: expected shares from 0 to 1 for {} layers and {} KV heads", path, shape.n_layers, shape.n_kv_heads);
  }
}

void check_calibration(const std::string& path, const Calibration& calibration, const CalibrationShape& shape) {
  const size_t n_levels = shape.n_stages();
  if (calibration.source != "window" && calibration.source != "probes") {
    fail("{}: expected calibration by window or probes, found {}", path, calibration.source);
  }
  if (calibration.n_queries < 0 || calibration.n_queries > std::numeric_limits<int32_t>::max()) {
    fail("{}: calibration with {} queries", path, calibration.n_queries);
  }
  if (calibration.upper_keep.size() + 1 != n_levels) {
    fail("{}: expected a calibration of {} stages, found {}", path, n_levels, calibration.upper_keep.size() + 1);
  }
  for (const double keep : calibration.upper_keep) {
    if (!(keep > 0 && keep <= 1)) fail("{}: expected upper_keep above 0 and up to 1, found {}", path, keep);
  }
  if (calibration.blocks.empty() || calibration.blocks.size() > kMaxBlocks) {
    fail("{}: expected 1 to {} calibrated block sizes, found {}", path, kMaxBlocks, calibration.blocks.size());
  }
  int previous = 0;
  for (const BlockCalibration& block : calibration.blocks) {
    if (block.block_size <= previous) fail("{}: block size {} follows {}", path, block.block_size, previous);
    previous = block.block_size;
    check_shares(path, block.shares, shape);
    for (const auto* functions : {&block.flat, &block.pruned}) {
      if (functions->size() != n_levels) fail("{}: expected {} quantile functions per block size", path, n_levels);
      for (const QuantileFunction& function : *functions) {
        if (function.thresholds.size() != sparsity_grid().size() || !is_quantile_function(function.thresholds)) {
          fail("{}: expected {} ascending thresholds in every quantile function", path, sparsity_grid().size());
        }
      }
    }
  }
}

using FunctionsOf = std::vector<QuantileFunction> BlockCalibration::*;

Tensor gather(const Calibration& calibration, size_t n_levels, FunctionsOf functions) {
  Tensor table = Tensor::zeros(DType::f32, quantiles_shape(n_levels));
  float* out = table.f32();
  for (const BlockCalibration& block : calibration.blocks) {
    for (const QuantileFunction& function : block.*functions) {
      out = std::copy(function.thresholds.begin(), function.thresholds.end(), out);
    }
  }
  return table;
}

void scatter(const Tensor& table, FunctionsOf functions, Calibration& calibration) {
  const int64_t n_grid = table.size(2);
  for (size_t block = 0; block < calibration.blocks.size(); ++block) {
    for (int64_t level = 0; level < table.size(1); ++level) {
      const float* row = table[static_cast<int64_t>(block)][level].f32();
      (calibration.blocks[block].*functions).push_back({{row, row + n_grid}});
    }
  }
}

Tensor gather_shares(const Calibration& calibration, const CalibrationShape& shape) {
  Tensor table = Tensor::zeros(DType::f32, shares_shape(shape));
  float* out = table.f32();
  for (const BlockCalibration& block : calibration.blocks) {
    std::copy(block.shares.kept.begin(), block.shares.kept.end(), out);
    out += table[0].n_elements();
  }
  return table;
}

void scatter_shares(const Tensor& table, const CalibrationShape& shape, Calibration& calibration) {
  for (size_t i = 0; i < calibration.blocks.size(); ++i) {
    const TensorView own = table[static_cast<int64_t>(i)];
    HeadShares& shares = calibration.blocks[i].shares;
    shares = {shape.n_layers, shape.n_kv_heads, {own.f32(), own.f32() + own.n_elements()}};
  }
}

GqaSelect gqa_of(const h5::Reader& file) {
  const int32_t number = file.read_i32("/calibration/gqa_select", {1})[0];
  if (number < 0 || number > 2) fail("{}: /calibration/gqa_select: expected 0 to 2, found {}", file.path(), number);
  return static_cast<GqaSelect>(number);
}

void check_grid(const h5::Reader& file) {
  const std::vector<double>& ours = sparsity_grid();
  const std::vector<double> found = file.read_f64("/calibration/sparsity", {static_cast<int64_t>(ours.size())});
  for (size_t i = 0; i < ours.size(); ++i) {
    if (!(std::abs(found[i] - ours[i]) <= kGridTolerance)) {
      fail("{}: /calibration/sparsity: expected {} at {}, found {}; build the index again", file.path(), ours[i], i,
           found[i]);
    }
  }
}

}  // namespace

void create_calibration(h5::Skeleton& file, const CalibrationShape& shape) {
  file.dataset("/calibration/sparsity", sparsity_grid());
  file.dataset("/calibration/n_queries", h5::Type::i32, {1});
  file.dataset("/calibration/from_probes", h5::Type::i32, {1});
  file.dataset("/calibration/upper_keep", h5::Type::f64, {static_cast<int64_t>(shape.n_stages())});
  file.dataset("/calibration/block_sizes", h5::Type::i32, {kMaxBlocks});
  file.dataset("/calibration/flat", h5::Type::f32, quantiles_shape(shape.n_stages()));
  file.dataset("/calibration/pruned", h5::Type::f32, quantiles_shape(shape.n_stages()));
  file.dataset("/calibration/gqa_select", h5::Type::i32, {1});
  file.dataset("/calibration/head_shares", h5::Type::f32, shares_shape(shape));
}

CalibrationExtents find_calibration(const h5::Reader& file, const CalibrationShape& shape) {
  check_grid(file);
  return {file.extent("/calibration/n_queries", h5::Type::i32, {1}),
          file.extent("/calibration/from_probes", h5::Type::i32, {1}),
          file.extent("/calibration/upper_keep", h5::Type::f64, {static_cast<int64_t>(shape.n_stages())}),
          file.extent("/calibration/block_sizes", h5::Type::i32, {kMaxBlocks}),
          file.extent("/calibration/flat", h5::Type::f32, quantiles_shape(shape.n_stages())),
          file.extent("/calibration/pruned", h5::Type::f32, quantiles_shape(shape.n_stages())),
          file.extent("/calibration/gqa_select", h5::Type::i32, {1}),
          file.extent("/calibration/head_shares", h5::Type::f32, shares_shape(shape))};
}

void save_calibration(PartialFile& file, const CalibrationExtents& extents, const CalibrationShape& shape,
                      const Calibration& calibration) {
  check_calibration(file.partial_path(), calibration, shape);
  const auto n_queries = static_cast<int32_t>(calibration.n_queries);
  const int32_t from_probes = calibration.source == "probes" ? 1 : 0;
  std::vector<double> upper_keep = calibration.upper_keep;
  upper_keep.push_back(1);
  std::vector<int32_t> block_sizes(kMaxBlocks, 0);
  for (size_t i = 0; i < calibration.blocks.size(); ++i) block_sizes[i] = calibration.blocks[i].block_size;
  const Tensor flat = gather(calibration, shape.n_stages(), &BlockCalibration::flat);
  const Tensor pruned = gather(calibration, shape.n_stages(), &BlockCalibration::pruned);
  const Tensor shares = gather_shares(calibration, shape);
  const auto gqa = static_cast<int32_t>(calibration.gqa);
  file.write(extents.gqa_select.offset, &gqa, sizeof gqa);
  file.write(extents.head_shares.offset, shares.data(), shares.n_bytes());
  file.write(extents.n_queries.offset, &n_queries, sizeof n_queries);
  file.write(extents.from_probes.offset, &from_probes, sizeof from_probes);
  file.write(extents.upper_keep.offset, upper_keep.data(), extents.upper_keep.n_bytes);
  file.write(extents.block_sizes.offset, block_sizes.data(), extents.block_sizes.n_bytes);
  file.write(extents.flat.offset, flat.data(), flat.n_bytes());
  file.write(extents.pruned.offset, pruned.data(), pruned.n_bytes());
}

Calibration load_calibration(const h5::Reader& file, const CalibrationShape& shape) {
  check_grid(file);
  Calibration calibration;
  calibration.n_queries = file.read_i32("/calibration/n_queries", {1})[0];
  calibration.source = file.read_i32("/calibration/from_probes", {1})[0] != 0 ? "probes" : "window";
  calibration.upper_keep = file.read_f64("/calibration/upper_keep", {static_cast<int64_t>(shape.n_stages())});
  calibration.upper_keep.pop_back();
  for (const int32_t size : file.read_i32("/calibration/block_sizes", {kMaxBlocks})) {
    if (size == 0) break;
    calibration.blocks.push_back({size, {}, {}});
  }
  const Shape table = quantiles_shape(shape.n_stages());
  scatter(file.read_floats("/calibration/flat", DType::f32, table), &BlockCalibration::flat, calibration);
  scatter(file.read_floats("/calibration/pruned", DType::f32, table), &BlockCalibration::pruned, calibration);
  calibration.sketches = shape.sketches;
  if (file.has("/calibration/head_shares")) {  // since version 2
    calibration.gqa = gqa_of(file);
    scatter_shares(file.read_floats("/calibration/head_shares", DType::f32, shares_shape(shape)), shape, calibration);
  }
  check_calibration(file.path(), calibration, shape);
  return calibration;
}

}  // namespace squeeze
