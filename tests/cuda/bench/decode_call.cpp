// Arguments and buffers of the kernels, and a check in double precision.
#include "tests/cuda/bench/decode_call.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "tests/cuda/bench/random.hpp"

namespace squeeze::cuda_bench {

DecodeCall::DecodeCall(const MadeIndex& index, Mode mode, double share, int n_requests)
    : index_(index),
      mode_(mode),
      n_works_(n_requests * index.shape.n_kv_heads),
      group_(index.shape.group()),
      rows_stride_(index.shape.n_tokens) {
  Random random;
  const auto works = static_cast<size_t>(n_works_), heads = works * size_t(group_);
  const auto n_leaves = static_cast<size_t>(index.levels.back().n_clusters);
  queries_ = DeviceArray<float>(normals(random, heads * kDim));
  out_ = DeviceArray<float>(heads * kDim);
  all_rows_ = DeviceArray<int32_t>(std::vector<int32_t>(works, static_cast<int32_t>(index.shape.n_tokens)));
  attend_space_ = DeviceArray<char>(cuda::attend_decode_workspace_bytes(n_works_, group_, kDim));
  if (mode == Mode::dense) return;
  rows_ = DeviceArray<int32_t>(works * size_t(rows_stride_));
  for (DeviceArray<int32_t>* counts : {&n_rows_, &n_items_, &n_leaves_, &n_rest_, &n_rest_out_}) {
    *counts = DeviceArray<int32_t>(works);
  }
  items_ = DeviceArray<int32_t>(works * n_leaves);
  dropped_ = DeviceArray<float>(heads * 2);
  for (const MadeIndex::Level& level : index.levels) {
    lookup_spaces_.emplace_back(cuda::lookup_workspace_bytes(n_works_, group_, level.n_clusters));
  }
  max_keys_ = static_cast<int>(share * static_cast<double>(index.n_clustered));
  if (mode == Mode::sparse) return;
  leaves_ = DeviceArray<int32_t>(works * n_leaves);
  rest_ = DeviceArray<int32_t>(works * 2 * n_leaves);
  rest_logits_ = DeviceArray<float>(heads * 2 * n_leaves);
  cluster_logits_ = DeviceArray<float>(heads * n_leaves);
  top_logits_ = DeviceArray<float>(heads);
  sketch_space_ = DeviceArray<char>(
      cuda::sketch_lookup_workspace_bytes(n_works_, group_, index.n_clustered, static_cast<int>(n_leaves)));
  // As lib/attention/lookup.cpp: half of what pinned rows, centroids and value means leave goes to sketches.
  const double fixed =
      double(kSinks + kWindow) * index.shape.key_bytes() + double(n_leaves) * (kCentroidBytes + kMeanBytes);
  bytes_ = static_cast<int64_t>(share * double(index.shape.n_tokens) * index.shape.key_bytes() - fixed);
  max_keys_ = static_cast<int>(
      std::clamp(0.5 * double(bytes_) / kSketchBytes, 0.0, 0.9 * static_cast<double>(index.n_clustered)));
}

template <class Args>
Args DecodeCall::with_queries() const {
  Args a = {};
  a.queries = queries_.data();
  a.n_works = n_works_;
  a.n_kv_heads = index_.shape.n_kv_heads;
  a.group = group_;
  a.head_dim = kDim;
  a.scale = 1 / std::sqrt(float(kDim));
  return a;
}

// Lookups: the rows that are always attended.
template <class Args>
void DecodeCall::set_pinned(Args& a) const {
  a.n_sinks = kSinks;
  a.n_window = kWindow;
  a.n_tokens = static_cast<int>(index_.shape.n_tokens);
}

// Where lookups write what is dropped, and attention reads it; room for the leaves twice.
template <class Args>
void DecodeCall::set_rest(Args& a) const {
  a.rest = rest_.data();
  a.rest_logits = rest_logits_.data();
  a.rest_stride = 2 * int64_t{index_.levels.back().n_clusters};
}

cuda::LookupArgs DecodeCall::lookup_args(int layer, size_t number) const {
  const MadeIndex::Level& level = index_.levels[number];
  const bool is_leaf = number + 1 == index_.levels.size(), is_first = number == 0;
  const bool for_sketches = is_leaf && mode_ == Mode::sketches;
  auto a = with_queries<cuda::LookupArgs>();
  a.centroids = level.centroids[size_t(layer)].data();
  a.centroid_scales = level.centroid_scales.data();
  a.dtype = DType::i8;
  a.first_row = level.first_row.data();
  a.first_child = !is_leaf ? level.first_child.data() : for_sketches ? index_.identity.data() : nullptr;
  a.n_clusters = level.n_clusters;
  a.n_clusters_of = level.n_clusters_of.data();
  a.items = is_first ? nullptr : items_.data();
  a.n_items = is_first ? nullptr : n_items_.data();
  a.dropped = is_first ? nullptr : dropped_.data();
  a.max_keys = is_leaf ? max_keys_ : static_cast<int>(std::min<int64_t>(index_.n_clustered, 3 * int64_t{max_keys_}));
  set_pinned(a);
  a.kept = !is_leaf ? items_.data() : for_sketches ? leaves_.data() : rows_.data();
  a.kept_stride = !is_leaf || for_sketches ? index_.levels.back().n_clusters : rows_stride_;
  a.n_kept = !is_leaf ? n_items_.data() : for_sketches ? n_leaves_.data() : n_rows_.data();
  a.dropped_out = is_leaf && !for_sketches ? nullptr : dropped_.data();
  if (for_sketches) {
    set_rest(a);
    a.n_rest = n_rest_.data();
    a.cluster_logits = cluster_logits_.data();
    a.top_logits = top_logits_.data();
  }
  a.workspace = lookup_spaces_[number].data();
  return a;
}

cuda::SketchLookupArgs DecodeCall::sketch_args(int layer) const {
  const MadeIndex::Level& level = index_.levels.back();
  auto a = with_queries<cuda::SketchLookupArgs>();
  a.group_dim = kSketchGroup;
  a.dims = index_.sketch_dims.data();
  a.entries = index_.sketch_entries.data();
  a.steps = index_.sketch_steps.data();
  a.error = index_.sketch_error.data();
  a.codes = index_.codes[size_t(layer)].data();
  a.scales = index_.sketch_scales.data();
  a.n_clustered = index_.n_clustered;
  a.first_row = level.first_row.data();
  a.n_clusters = level.n_clusters;
  a.leaves = leaves_.data();
  a.leaves_stride = level.n_clusters;
  a.n_leaves = n_leaves_.data();
  a.cluster_logits = cluster_logits_.data();
  a.top_logits = top_logits_.data();
  a.dropped = dropped_.data();
  a.bytes = bytes_;
  a.sketch_bytes = kSketchBytes;
  a.key_bytes = index_.shape.key_bytes();
  a.rows = rows_.data();
  a.rows_stride = rows_stride_;
  a.n_rows = n_rows_.data();
  set_pinned(a);
  set_rest(a);
  a.n_rest = n_rest_.data();
  a.n_rest_out = n_rest_out_.data();
  a.workspace = sketch_space_.data();
  return a;
}

cuda::AttendDecodeArgs DecodeCall::attend_args(int layer) const {
  auto a = with_queries<cuda::AttendDecodeArgs>();
  index_.set_keys(layer, a);
  a.rows = mode_ == Mode::dense ? nullptr : rows_.data();
  a.rows_stride = rows_stride_;
  a.n_rows = mode_ == Mode::dense ? all_rows_.data() : n_rows_.data();
  if (mode_ == Mode::sketches) {
    a.value_means = index_.value_means[size_t(layer)].data();
    a.n_clusters = index_.levels.back().n_clusters;
    set_rest(a);
    a.n_rest = n_rest_out_.data();
  }
  a.out = out_.data();
  a.workspace = attend_space_.data();
  return a;
}

void DecodeCall::lookup_only(int layer, Stream stream) const {
  if (mode_ == Mode::dense) return;
  for (size_t level = 0; level < index_.levels.size(); ++level) cuda::lookup(lookup_args(layer, level), stream);
  if (mode_ == Mode::sketches) cuda::sketch_lookup(sketch_args(layer), stream);
}

void DecodeCall::attend_only(int layer, const DecodeTail& tail, Stream stream) const {
  cuda::AttendDecodeArgs a = attend_args(layer);
  a.tail_keys = tail.keys;
  a.tail_values = tail.values;
  a.tail_capacity = tail.capacity;
  a.n_tail = tail.n_rows;
  cuda::attend_decode(a, stream);
}

void DecodeCall::run_layer(int layer, Stream stream) const {
  lookup_only(layer, stream);
  attend_only(layer, {}, stream);
}

CallBytes DecodeCall::bytes() const {
  CallBytes bytes;
  if (mode_ == Mode::dense) return {index_.shape.kv_bytes() * (n_works_ / index_.shape.n_kv_heads), 0};
  for (const int n : n_rows_.host()) bytes.keys += int64_t{n} * index_.shape.key_bytes();
  for (size_t level = 0; level < index_.levels.size(); ++level) {
    if (level == 0) {
      bytes.index += int64_t{index_.levels[0].n_clusters} * n_works_ * kCentroidBytes;
    } else {
      for (const int n : n_items_.host()) bytes.index += int64_t{n} * kCentroidBytes;
    }
  }
  if (mode_ == Mode::sketches) {
    const std::vector<int32_t> leaves = leaves_.host(), counts = n_leaves_.host();
    const std::vector<int32_t>& first_row = index_.levels.back().host_first_row;
    for (size_t work = 0; work < counts.size(); ++work) {
      for (int i = 0; i < counts[work]; ++i) {
        const auto leaf = size_t(leaves[work * size_t(index_.levels.back().n_clusters) + size_t(i)]);
        bytes.index += int64_t{first_row[leaf + 1] - first_row[leaf]} * kSketchBytes;
      }
    }
    for (const int n : n_rest_out_.host()) bytes.index += int64_t{n} * kMeanBytes;
  }
  return bytes;
}

// The dropped clusters of the first query head of a work, with the logits that the lookups gave them.
void DecodeCall::add_rest(int layer, int work, std::vector<double>& acc, double& sum) const {
  if (mode_ != Mode::sketches) return;
  const auto n_leaves = static_cast<size_t>(index_.levels.back().n_clusters);
  const std::vector<int32_t> rest = rest_.host(), counts = n_rest_out_.host();
  const std::vector<float> logits = rest_logits_.host();
  std::vector<uint16_t> means(n_leaves * kDim);  // the same for all heads
  cuda::copy_to_host(means.data(), index_.value_means[size_t(layer)].data(), means.size() * 2, nullptr);
  for (size_t i = 0; i < size_t(counts[size_t(work)]); ++i) {
    const double weight = std::exp(double{logits[size_t(work * group_) * 2 * n_leaves + i]});
    const uint16_t* mean = means.data() + size_t(rest[size_t(work) * 2 * n_leaves + i]) * kDim;
    sum += weight;
    for (size_t c = 0; c < kDim; ++c) acc[c] += weight * double{bf16_to_f32(mean[c])};
  }
}

double DecodeCall::largest_error(int layer) const {
  const std::vector<float> queries = queries_.host(), out = out_.host();
  const std::vector<float> rows = index_.host_rows(layer);
  double worst = 0;
  for (const int work : {0, n_works_ - 1}) {
    std::vector<int32_t> list(static_cast<size_t>(index_.shape.n_tokens));
    std::iota(list.begin(), list.end(), 0);
    if (mode_ != Mode::dense) {
      list.resize(size_t(n_rows_.host()[size_t(work)]));
      cuda::copy_to_host(list.data(), rows_.data() + work * rows_stride_, list.size() * 4, nullptr);
    }
    const float* query = queries.data() + int64_t{work} * group_ * kDim;
    std::vector<double> acc(kDim, 0.0);
    double sum = 0;  // logits of random rows are small: no maximum is needed
    for (const int32_t row : list) {
      const float* key = rows.data() + int64_t{row} * kDim;
      double dot = 0;
      for (int c = 0; c < kDim; ++c) dot += double{query[c]} * double{key[c]};
      const double weight = std::exp(dot / std::sqrt(double(kDim)));
      sum += weight;
      for (size_t c = 0; c < kDim; ++c) acc[c] += weight * double{key[c]};
    }
    add_rest(layer, work, acc, sum);
    const float* found = out.data() + int64_t{work} * group_ * kDim;
    for (size_t c = 0; c < kDim; ++c) {
      const double difference = std::abs(acc[c] / sum - double{found[c]});
      if (!(difference <= worst)) worst = difference;  // NaN too
    }
  }
  return worst;
}

}  // namespace squeeze::cuda_bench
