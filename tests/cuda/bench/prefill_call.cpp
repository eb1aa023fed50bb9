// The buffers of a question, and its check.
#include "tests/cuda/bench/prefill_call.hpp"

#include <cmath>

namespace squeeze::cuda_bench {
namespace {

float scale() { return 1 / std::sqrt(float(kDim)); }

std::vector<float> random_floats(int64_t n_rows) {
  std::vector<float> out;
  for (const uint16_t x : random_rows(n_rows)) out.push_back(bf16_to_f32(x));
  return out;
}

}  // namespace

PrefillCall::PrefillCall(const MadeIndex& index, int n_queries, double share)
    : index_(index),
      n_queries_(n_queries),
      n_works_((n_queries + kBlockTokens - 1) / kBlockTokens * index.shape.n_kv_heads),
      max_keys_(share < 1 ? static_cast<int>(share * double(index.n_clustered)) : -1),
      rows_stride_(max_keys_ + 100 + kSinks + kWindow) {  // the best cluster may hold more than max_keys
  const Shape& shape = index.shape;
  const auto works = static_cast<size_t>(n_works_);
  queries_ = DeviceArray<float>(random_floats(int64_t{n_queries} * shape.n_query_heads));
  out_ = DeviceArray<float>(queries_.size());
  tail_ = DeviceArray<uint16_t>(random_rows(int64_t{n_queries} * shape.n_kv_heads));
  attend_space_ = DeviceArray<char>(
      cuda::attend_prefill_workspace_bytes(n_queries, shape.n_query_heads, shape.n_kv_heads, kDim, kBlockTokens));
  if (dense()) {
    n_rows_ = DeviceArray<int32_t>(std::vector<int32_t>(works, static_cast<int32_t>(shape.n_tokens)));
    return;
  }
  n_rows_ = DeviceArray<int32_t>(works);
  rows_ = DeviceArray<int32_t>(works * size_t(rows_stride_));
  lookup_space_ = DeviceArray<char>(cuda::block_lookup_workspace_bytes(n_queries, shape.n_query_heads, shape.n_kv_heads,
                                                                       kBlockTokens, index.levels.back().n_clusters));
}

template <class Args>
Args PrefillCall::with_queries() const {
  Args a = {};
  a.queries = queries_.data();
  a.n_queries = n_queries_;
  a.n_query_heads = index_.shape.n_query_heads;
  a.n_kv_heads = index_.shape.n_kv_heads;
  a.head_dim = kDim;
  a.scale = scale();
  a.dtype = DType::bf16;
  a.block_tokens = kBlockTokens;
  return a;
}

void PrefillCall::run_layer(int layer, Stream stream) const {
  const Shape& shape = index_.shape;
  const MadeIndex::Level& leaves = index_.levels.back();
  if (!dense()) {
    auto a = with_queries<cuda::BlockLookupArgs>();
    a.centroids = index_.leaf_centroids.data();
    a.first_row = leaves.first_row.data();
    a.n_clusters = leaves.n_clusters;
    a.n_clusters_of = leaves.n_clusters_of.data();
    a.max_keys = max_keys_;
    a.n_sinks = kSinks;
    a.n_window = kWindow;
    a.n_tokens = static_cast<int>(shape.n_tokens);
    a.kept = rows_.data();
    a.kept_stride = rows_stride_;
    a.n_kept = n_rows_.data();
    a.workspace = lookup_space_.data();
    cuda::block_lookup(a, stream);
  }
  auto a = with_queries<cuda::AttendPrefillArgs>();
  index_.set_keys(layer, a);
  a.rows = dense() ? nullptr : rows_.data();
  a.rows_stride = rows_stride_;
  a.n_rows = n_rows_.data();
  a.tail_keys = tail_.data();
  a.tail_values = tail_.data();
  a.tail_capacity = n_queries_;
  a.out = out_.data();
  a.workspace = attend_space_.data();
  cuda::attend_prefill(a, stream);
}

double PrefillCall::attention_flops() const {
  double pairs = 0;  // of tokens and rows, for one query head
  const std::vector<int32_t> counts = n_rows_.host();
  for (size_t work = 0; work < counts.size(); work += size_t(index_.shape.n_kv_heads)) {
    const int first = static_cast<int>(work) / index_.shape.n_kv_heads * kBlockTokens;
    pairs += double(std::min(kBlockTokens, n_queries_ - first)) * counts[work];
  }
  pairs += double(n_queries_) * n_queries_ / 2;
  return pairs * 4 * kDim * index_.shape.n_query_heads;
}

double PrefillCall::largest_error(int layer) const {
  const Shape& shape = index_.shape;
  const std::vector<float> queries = queries_.host(), out = out_.host();
  std::vector<float> tail;
  for (const uint16_t x : tail_.host()) tail.push_back(bf16_to_f32(x));
  const std::vector<int32_t> counts = n_rows_.host();
  const std::vector<float> rows = index_.host_rows(layer);
  double worst = 0;
  for (const int token : {0, n_queries_ - 1}) {
    const int work = token / kBlockTokens * shape.n_kv_heads;  // the first KV head
    std::vector<int32_t> list(size_t(counts[size_t(work)]));
    for (size_t i = 0; i < list.size(); ++i) list[i] = static_cast<int32_t>(i);
    if (!dense()) cuda::copy_to_host(list.data(), rows_.data() + work * rows_stride_, list.size() * 4, nullptr);
    const float* query = queries.data() + int64_t{token} * shape.n_query_heads * kDim;
    std::vector<double> acc(kDim, 0.0);
    double sum = 0;  // logits of random rows are small: no maximum is needed
    const auto add = [&](const float* row) {
      double dot = 0;
      for (int c = 0; c < kDim; ++c) dot += double{query[c]} * double{row[c]};
      const double weight = std::exp(dot * double{scale()});
      sum += weight;
      for (size_t c = 0; c < kDim; ++c) acc[c] += weight * double{row[c]};
    };
    for (const int32_t row : list) add(rows.data() + int64_t{row} * kDim);
    for (int i = 0; i <= token; ++i) add(tail.data() + int64_t{i} * kDim);
    const float* found = out.data() + int64_t{token} * shape.n_query_heads * kDim;
    for (size_t c = 0; c < kDim; ++c) {
      const double difference = std::abs(acc[c] / sum - double{found[c]});
      if (!(difference <= worst)) worst = difference;  // NaN too
    }
  }
  return worst;
}

}  // namespace squeeze::cuda_bench
