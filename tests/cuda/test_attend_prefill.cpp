// attend_prefill against attention in double precision.
#include "kernels/cuda/attend_prefill.hpp"

#include <algorithm>
#include <numeric>

#include "tests/cuda/made_rows.hpp"

namespace squeeze::cuda_tests {
namespace {

using cuda::DeviceArray;

struct Setting {
  DType dtype = DType::bf16;       // of keys and values
  DType float_type = DType::bf16;  // of the others if that is i8
  int n_queries = 40, n_query_heads = 4, n_kv_heads = 2, head_dim = 128, block_tokens = 64;
  int n_context = 100;           // rows that there are
  std::vector<int> n_rows = {};  // of each work, repeated: chosen at random; empty: no context
  bool lists_rows = true;        // else rows 0, 1, ...
  int n_tail_before = -1;        // -1: no tail
  std::vector<int> n_rest = {};  // of each work, repeated; empty: none

  DType other_type() const { return dtype == DType::i8 ? float_type : dtype; }
  int n_works() const { return (n_queries + block_tokens - 1) / block_tokens * n_kv_heads; }
};

constexpr int kClusters = 30;

class Call {
 public:
  Call(const Setting& setting, uint64_t seed) : s_(setting), random_(seed) {
    const size_t dim = size_t(s_.head_dim), heads = size_t(s_.n_kv_heads);
    queries_ = random_.normals(size_t(s_.n_queries * s_.n_query_heads) * dim);
    tail_capacity_ = std::max(0, s_.n_tail_before) + s_.n_queries + 3;
    const auto rows = [&](size_t n, DType dtype) { return Rows(random_, heads * n, s_.head_dim, dtype); };
    for (Rows* made : {&keys_, &values_}) *made = rows(size_t(s_.n_context), s_.dtype);
    for (Rows* made : {&tail_keys_, &tail_values_}) *made = rows(size_t(tail_capacity_), s_.other_type());
    for (Rows* made : {&centroids_, &value_means_}) *made = rows(kClusters, s_.other_type());
    for (size_t i = 0; i < heads * kClusters; ++i) log_sizes_.push_back(std::log(float(1 + random_.below(40))));
    make_lists(s_.n_rows, s_.n_context, s_.lists_rows, row_lists_, n_rows_);
    make_lists(s_.n_rest, kClusters, true, rest_lists_, n_rest_);
  }

  void run() {
    const DeviceArray<float> queries(queries_), log_sizes(log_sizes_), key_scales(keys_.scales),
        value_scales(values_.scales);
    const DeviceArray<uint8_t> keys(keys_.data), values(values_.data), tail_keys(tail_keys_.data),
        tail_values(tail_values_.data), centroids(centroids_.data), value_means(value_means_.data);
    const DeviceArray<int32_t> rows(row_lists_), n_rows(n_rows_), rest(rest_lists_), n_rest(n_rest_);
    const DeviceArray<float> out(std::vector<float>(queries_.size(), NAN));
    const DeviceArray<char> workspace(cuda::attend_prefill_workspace_bytes(
        s_.n_queries, s_.n_query_heads, s_.n_kv_heads, s_.head_dim, s_.block_tokens));
    const cuda::AttendPrefillArgs args{.queries = queries.data(),
                                       .n_queries = s_.n_queries,
                                       .n_query_heads = s_.n_query_heads,
                                       .n_kv_heads = s_.n_kv_heads,
                                       .head_dim = s_.head_dim,
                                       .scale = scale(),
                                       .dtype = s_.dtype,
                                       .float_type = s_.float_type,
                                       .key_scales = key_scales.data(),
                                       .value_scales = value_scales.data(),
                                       .block_tokens = s_.block_tokens,
                                       .keys = keys.data(),
                                       .values = values.data(),
                                       .n_tokens = s_.n_context,
                                       .rows = s_.lists_rows ? rows.data() : nullptr,
                                       .rows_stride = s_.n_context,
                                       .n_rows = s_.n_rows.empty() ? nullptr : n_rows.data(),
                                       .tail_keys = s_.n_tail_before < 0 ? nullptr : tail_keys.data(),
                                       .tail_values = tail_values.data(),
                                       .tail_capacity = tail_capacity_,
                                       .n_tail_before = s_.n_tail_before,
                                       .centroids = centroids.data(),
                                       .value_means = value_means.data(),
                                       .n_clusters = kClusters,
                                       .rest = rest.data(),
                                       .log_sizes = log_sizes.data(),
                                       .rest_stride = kClusters,
                                       .n_rest = s_.n_rest.empty() ? nullptr : n_rest.data(),
                                       .out = out.data(),
                                       .workspace = workspace.data()};
    cuda::attend_prefill(args, nullptr);
    const std::vector<float> first = out.host();
    check(first);
    cuda::fill_device(out.data(), 0xff, out.size() * sizeof(float), nullptr);
    cuda::attend_prefill(args, nullptr);  // the workspace is fit for a second call, and the bits are the same
    expect(out.host() == first, "a second call gives other bits");
  }

 private:
  float scale() const { return 1 / std::sqrt(static_cast<float>(s_.head_dim)); }

  void make_lists(const std::vector<int>& sizes, int n, bool shuffled, std::vector<int32_t>& lists,
                  std::vector<int32_t>& counts) {
    for (int w = 0; w < s_.n_works(); ++w) {
      const int size = sizes.empty() ? 0 : sizes[size_t(w) % sizes.size()];
      std::vector<int32_t> numbers(static_cast<size_t>(n));
      std::iota(numbers.begin(), numbers.end(), 0);
      if (shuffled) std::shuffle(numbers.begin(), numbers.end(), std::mt19937_64(uint64_t(w)));
      std::sort(numbers.begin(), numbers.begin() + size);
      lists.insert(lists.end(), numbers.begin(), numbers.end());
      counts.push_back(size);
    }
  }

  // One query head of one token; returns its output, and the largest logit.
  std::vector<double> attend(int token, int query_head, double& largest) const {
    const int kv = query_head / (s_.n_query_heads / s_.n_kv_heads);
    const int work = token / s_.block_tokens * s_.n_kv_heads + kv;
    const size_t dim = size_t(s_.head_dim);
    const float* query = queries_.data() + size_t(token * s_.n_query_heads + query_head) * dim;
    std::vector<double> acc(dim, 0.0);
    double sum = 0;  // logits of random rows are small: no maximum is needed
    const auto add = [&](const Rows& keys, const Rows& values, int row, double bias) {
      double dot = 0;
      for (size_t c = 0; c < dim; ++c) {
        uint32_t bits = 0;
        store_element(&bits, s_.other_type(), 0, query[c]);
        dot += double{load_element(&bits, s_.other_type(), 0)} * keys.at(size_t(row), c);
      }
      const double logit = dot * double{scale()} + bias;
      largest = std::max(largest, std::abs(logit));
      const double weight = std::exp(logit);
      sum += weight;
      for (size_t c = 0; c < dim; ++c) acc[c] += weight * values.at(size_t(row), c);
    };
    for (int i = 0; i < n_rows_[size_t(work)]; ++i) {
      add(keys_, values_, kv * s_.n_context + row_lists_[size_t(work * s_.n_context + i)], 0);
    }
    for (int i = 0; s_.n_tail_before >= 0 && i <= s_.n_tail_before + token; ++i) {
      add(tail_keys_, tail_values_, kv * tail_capacity_ + i, 0);
    }
    for (int i = 0; i < n_rest_[size_t(work)]; ++i) {
      const int cluster = kv * kClusters + rest_lists_[size_t(work * kClusters + i)];
      add(centroids_, value_means_, cluster, double{log_sizes_[size_t(cluster)]});
    }
    for (double& x : acc) x = sum > 0 ? x / sum : 0;
    return acc;
  }

  void check(const std::vector<float>& out) const {
    for (int token = 0; token < s_.n_queries; ++token) {
      for (int head = 0; head < s_.n_query_heads; ++head) {
        double largest = 0;
        const std::vector<double> expected = attend(token, head, largest);
        // Softmax weights are rounded to 16 bits; values reach 5 deviations.
        const double unit = s_.other_type() == DType::bf16 ? 1.0 / 256 : 1.0 / 2048;
        const size_t row = size_t(token * s_.n_query_heads + head) * size_t(s_.head_dim);
        expect_close("output", {out.data() + row, expected.size()}, expected, 5 * (unit / 2 + 1e-5 * (1 + largest)));
      }
    }
  }

  Setting s_;
  Random random_;
  int tail_capacity_ = 0;
  std::vector<float> queries_, log_sizes_;
  Rows keys_, values_, tail_keys_, tail_values_, centroids_, value_means_;
  std::vector<int32_t> row_lists_, n_rows_, rest_lists_, n_rest_;
};

void check_setting(const Setting& setting) { Call(setting, 5).run(); }

// Keys and values in 8 bits, beside a tail and dropped clusters in 16.
void check_bytes(Setting setting) {
  setting.dtype = DType::i8;
  setting.n_rows = {90, 0, 17};
  setting.n_tail_before = 5;
  setting.n_rest = {8, 0, 30};
  check_setting(setting);
}

}  // namespace

std::vector<Case> attend_prefill_cases() {
  return {
      {"attend_prefill: causal, nothing else", [] { check_setting({.n_queries = 150, .n_tail_before = 0}); }},
      {"attend_prefill: causal behind a tail", [] { check_setting({.n_tail_before = 70}); }},
      {"attend_prefill: all rows", [] { check_setting({.n_rows = {100}, .lists_rows = false}); }},
      {"attend_prefill: lists, tail and dropped clusters",
       [] {
         check_setting({.n_rows = {90, 0, 17}, .n_tail_before = 5, .n_rest = {30, 3, 0}});
       }},
      {"attend_prefill: blocks of tokens",
       [] {
         check_setting({.n_queries = 50, .block_tokens = 16, .n_rows = {64, 1, 99}, .n_tail_before = 0});
       }},
      {"attend_prefill: nothing at all", [] { check_setting({.n_rows = {0}}); }},
      {"attend_prefill: keys split among blocks",
       [] {
         check_setting({.n_queries = 3, .n_context = 700, .n_rows = {700, 300}, .n_tail_before = 0});
       }},
      {"attend_prefill: f16, seven heads a group",
       [] {
         check_setting({.dtype = DType::f16, .n_queries = 30, .n_query_heads = 7, .n_kv_heads = 1, .n_rows = {80}});
       }},
      {"attend_prefill: bytes", [] { check_bytes({.n_queries = 150}); }},
      {"attend_prefill: bytes, all rows",
       [] { check_setting({.dtype = DType::i8, .n_rows = {100}, .lists_rows = false}); }},
      {"attend_prefill: bytes, f16, seven heads a group",
       [] { check_bytes({.float_type = DType::f16, .n_queries = 30, .n_query_heads = 7, .n_kv_heads = 1}); }},
      {"attend_prefill: bytes, dim 64", [] { check_bytes({.head_dim = 64}); }},
      {"attend_prefill: bytes, dim 96", [] { check_bytes({.float_type = DType::f16, .head_dim = 96}); }},
      {"attend_prefill: bytes, dim 256", [] { check_bytes({.n_queries = 20, .head_dim = 256}); }},
      {"attend_prefill: dim 64", [] { check_setting({.head_dim = 64, .n_rows = {80}, .n_tail_before = 1}); }},
      {"attend_prefill: dim 96", [] { check_setting({.head_dim = 96, .n_rows = {80}, .n_tail_before = 1}); }},
      {"attend_prefill: dim 256",
       [] { check_setting({.n_queries = 20, .head_dim = 256, .n_rows = {80}, .n_tail_before = 1, .n_rest = {8}}); }},
  };
}

}  // namespace squeeze::cuda_tests
