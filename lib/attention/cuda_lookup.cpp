// Arguments of lookup() and sketch_lookup(), and the buffers between them.
#include "lib/attention/cuda_lookup.hpp"

#include "kernels/cuda/lookup.hpp"
#include "kernels/cuda/sketch_lookup.hpp"
#include "lib/attention/cuda_placement.hpp"

namespace squeeze {

CudaLookup::CudaLookup(const CudaContext& context, Rest rest, const CudaStream& stream)
    : context_(context), rest_(rest), stream_(stream), levels_(context.layers[0].levels.size()) {}

template <class Args>
Args CudaLookup::arguments(const float* queries, int64_t n_works, int group) const {
  Args a = {};
  a.queries = queries;
  a.n_works = static_cast<int>(n_works);
  a.n_kv_heads = context_.model.n_kv_heads;
  a.group = group;
  a.head_dim = context_.model.head_dim;
  a.scale = context_.model.softmax_scale;
  a.n_tokens = static_cast<int>(context_.n_tokens);
  if (rest_ == Rest::mean) {
    a.rest = rest_list_.data();
    a.rest_logits = rest_logits_.data();
    a.n_rest = n_rest_.data();
  }
  return a;
}

int64_t CudaLookup::bytes_per_work(const CudaLayer& layer, const CudaPlan& plan, int group) const {
  int64_t floats = plan.most_rows + int64_t{2} * layer.n_means * group;  // rows; rest and cluster logits
  for (const CudaLevel& level : layer.levels) floats += int64_t{level.n_clusters} * (group + 2);
  if (plan.sketches) floats += layer.n_clustered() * (group + 2) / 2;
  return 4 * floats;
}

void CudaLookup::look_up(const CudaLayer& layer, const CudaPlan& plan, size_t number, const float* queries,
                         int64_t n_works, int group) {
  const CudaLevel& level = layer.levels[number];
  const bool leaves = number + 1 == layer.levels.size(), to_rows = leaves && !plan.sketches;
  const auto works = static_cast<size_t>(n_works), rows = works * static_cast<size_t>(group);
  auto a = arguments<cuda::LookupArgs>(queries, n_works, group);
  a.centroids = level.centroids.data();
  a.centroid_scales = level.dtype == DType::i8 ? level.centroid_scales.data() : nullptr;
  a.dtype = level.dtype;
  a.first_row = level.first_row.data();
  a.first_child = to_rows ? nullptr : level.first_child.data();
  a.n_clusters = level.n_clusters;
  a.n_clusters_of = level.n_clusters_of.data();
  if (number > plan.first_level) {
    a.items = levels_[number - 1].items.data();
    a.n_items = levels_[number - 1].n_items.data();
    a.dropped = levels_[number - 1].dropped.data();
  }
  a.threshold = plan.levels[number].threshold;
  a.max_keys = -1;
  a.max_heads = plan.largest ? context_.model.group_size() : 1;
  a.max_keys_of = plan.levels[number].keys_of.data();
  a.n_sinks = layer.n_sinks();
  a.n_window = layer.n_window();
  Level& own = levels_[number];
  a.kept_stride = to_rows ? plan.most_rows : leaves ? level.n_clusters : layer.levels[number + 1].n_clusters;
  a.kept = (to_rows ? rows_ : own.items).resized(works * static_cast<size_t>(a.kept_stride));
  a.n_kept = (to_rows ? n_rows_ : own.n_items).resized(works);
  a.rest_stride = layer.n_means + layer.levels.back().n_clusters;
  a.rest_offset = level.first_mean;
  if (!to_rows) a.dropped_out = own.dropped.resized(rows * 2);
  if (leaves && plan.sketches) {
    a.cluster_logits = cluster_logits_.resized(rows * static_cast<size_t>(level.n_clusters));
    a.top_logits = top_logits_.resized(rows);
  }
  a.workspace = own.space.of(cuda::lookup_workspace_bytes(a.n_works, group, level.n_clusters), {n_works}, stream_);
  cuda::lookup(a, stream_.get());
}

void CudaLookup::choose_keys(const CudaLayer& layer, const CudaPlan& plan, const float* queries, int64_t n_works,
                             int group) {
  const CudaLevel& leaves = layer.levels.back();
  const Level& in_play = levels_.back();
  const HeadView& head = layer.heads[0];
  const auto works = static_cast<size_t>(n_works);
  auto a = arguments<cuda::SketchLookupArgs>(queries, n_works, group);
  const CudaSketches& sketches = layer.sketches;
  a.group_dim = sketches.group_dim;
  a.dims = sketches.dims.data();
  a.entries = sketches.entries.data();
  a.steps = sketches.steps.data();
  a.error = sketches.error.data();
  a.codes = sketches.codes.data();
  a.scales = sketches.scales.data();
  a.n_clustered = layer.n_clustered();
  a.first_row = leaves.first_row.data();
  a.n_clusters = leaves.n_clusters;
  a.leaves = in_play.items.data();
  a.leaves_stride = leaves.n_clusters;
  a.n_leaves = in_play.n_items.data();
  a.cluster_logits = cluster_logits_.data();
  a.top_logits = top_logits_.data();
  a.dropped = in_play.dropped.data();
  a.max_heads = plan.largest ? context_.model.group_size() : 1;
  a.bytes_of = plan.bytes_of.data();
  a.max_keys_of = plan.keys.keys_of.data();
  a.by_threshold = !a.bytes_of && !a.max_keys_of;
  a.threshold = plan.keys.threshold;
  a.sketch_bytes = static_cast<int>(head.sketches.key_bytes());
  a.key_bytes = static_cast<int>(kv_bytes(head));
  a.n_sinks = layer.n_sinks();
  a.n_window = layer.n_window();
  a.rows_stride = plan.most_rows;
  a.rows = rows_.resized(works * static_cast<size_t>(a.rows_stride));
  a.n_rows = n_rows_.resized(works);
  a.n_candidates = n_candidates_.resized(works);
  a.rest_stride = layer.n_means + leaves.n_clusters;
  a.rest_offset = leaves.first_mean;
  a.n_rest_out = n_rest_after_.resized(works);
  a.workspace = sketch_space_.resized(
      cuda::sketch_lookup_workspace_bytes(a.n_works, group, layer.n_clustered(), leaves.n_clusters));
  cuda::sketch_lookup(a, stream_.get());
}

CudaCounting::CudaCounting(int64_t n_works, int64_t* const* totals_of, int64_t n_requests) {
  args_.n = static_cast<int>(n_works / n_requests);
  args_.n_requests = static_cast<int>(n_requests);
  args_.totals_of = totals_of;
}

void CudaCounting::add(const int32_t* of_works, CudaCounts::Total total, const CudaStream& stream) {
  args_.counts[args_.n_counts] = of_works;
  args_.slots[args_.n_counts++] = total;
  if (args_.n_counts == cuda::CountArgs::kMost) launch(stream);
}

void CudaCounting::launch(const CudaStream& stream) {
  if (args_.n_counts > 0) cuda::add_counts(args_, stream.get());
  args_.n_counts = 0;
}

void CudaLookup::count(const CudaLayer& layer, const CudaPlan& plan, int64_t n_works, int64_t* const* totals_of,
                       int64_t n_requests) {
  CudaCounting counting(n_works, totals_of, n_requests);
  counting.add(n_rows_.data(), CudaCounts::kRows, stream_);
  for (size_t i = plan.first_level; i + 1 < layer.levels.size(); ++i) {
    counting.add(levels_[i].n_items.data(), CudaCounts::kScored, stream_);
  }
  if (plan.sketches) counting.add(n_candidates_.data(), CudaCounts::kSketches, stream_);
  if (rest_ == Rest::mean) {
    counting.add((plan.sketches ? n_rest_after_ : n_rest_).data(), CudaCounts::kRest, stream_);
  }
  counting.launch(stream_);
}

CudaSelection CudaLookup::select(const CudaLayer& layer, const CudaPlan& plan, const float* queries, int64_t n_works,
                                 int group, int64_t* const* totals_of, int64_t n_requests) {
  const auto works = static_cast<size_t>(n_works);
  const size_t rest_stride = static_cast<size_t>(layer.n_means + layer.levels.back().n_clusters);
  if (rest_ == Rest::mean) {
    rest_list_.resized(works * rest_stride);
    rest_logits_.resized(works * static_cast<size_t>(group) * rest_stride);
    n_rest_.resized(works);
  }
  for (size_t i = plan.first_level; i < layer.levels.size(); ++i) look_up(layer, plan, i, queries, n_works, group);
  if (plan.sketches) choose_keys(layer, plan, queries, n_works, group);
  count(layer, plan, n_works, totals_of, n_requests);
  CudaSelection out = {};
  out.rows = rows_.data();
  out.rows_stride = plan.most_rows;
  out.n_rows = n_rows_.data();
  if (rest_ == Rest::mean) {
    out.rest = rest_list_.data();
    out.rest_logits = rest_logits_.data();
    out.rest_stride = static_cast<int64_t>(rest_stride);
    out.n_rest = plan.sketches ? n_rest_after_.data() : n_rest_.data();
  }
  return out;
}

void CudaCounts::add_fixed(const CudaLayer& layer, const CudaPlan& plan, int64_t n_works) {
  pinned_ += n_works * (layer.n_sinks() + layer.n_window());
  for (const HeadView& head : layer.heads) {
    scored_at_top_ += head.levels[plan.first_level].n_clusters() * (n_works / std::ssize(layer.heads));
  }
  if (plan.sketches) codebook_bytes_ += n_works * layer.heads[0].sketches.codebook_bytes();
}

void CudaCounts::add_usage(const CudaLayer& layer, Usage& usage) const {
  int64_t totals[kTotals];
  stream_.download(totals_.data(), sizeof totals, totals);
  const HeadView& head = layer.heads[0];
  const int64_t n_selected = totals[kRows] - pinned_;
  usage.keys_selected += n_selected;
  usage.bytes_read += n_selected * kv_bytes(head);
  const int64_t from_host = device_row_bytes(head);
  usage.bytes_from_host += totals[kFromHost] * from_host;
  usage.bytes_cached += (totals[kHostRows] - totals[kFromHost]) * from_host;
  usage.bytes_read += codebook_bytes_;
  if (head.levels.empty()) return;
  const LevelView& level = head.levels.front();
  usage.bytes_read += (totals[kScored] + scored_at_top_) * centroid_bytes(level) + totals[kRest] * mean_bytes(level);
  if (head.sketches.present()) usage.bytes_read += totals[kSketches] * head.sketches.key_bytes();
}

void CudaCounts::clear() {
  cuda::fill_device(totals_.resized(kTotals), 0, kTotals * sizeof(int64_t), stream_.get());
  scored_at_top_ = pinned_ = codebook_bytes_ = 0;
}

}  // namespace squeeze
