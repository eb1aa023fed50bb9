// block_lookup against scores in double precision.
#include "kernels/cuda/block_lookup.hpp"

#include <algorithm>
#include <numeric>

#include "tests/cuda/cases.hpp"

namespace squeeze::cuda_tests {
namespace {

using cuda::DeviceArray;

struct Setting {
  DType dtype = DType::bf16;
  int n_queries = 20, n_query_heads = 4, n_kv_heads = 2, head_dim = 128, block_tokens = 16, n_clusters = 130;
  double keep = 0.3;     // share of the clusters, of the first work
  bool by_size = false;  // max_keys, else threshold

  int n_blocks() const { return (n_queries + block_tokens - 1) / block_tokens; }
  int n_works() const { return n_blocks() * n_kv_heads; }
};

constexpr int kSinks = 2, kWindow = 3;

class Call {
 public:
  Call(const Setting& setting, uint64_t seed) : s_(setting), random_(seed) {
    queries_ = random_.normals(size_t(s_.n_queries * s_.n_query_heads * s_.head_dim));
    centroids_ = rounded(random_.normals(size_t(s_.n_kv_heads * s_.n_clusters * s_.head_dim)), s_.dtype);
    for (int head = 0; head < s_.n_kv_heads; ++head) {
      n_clusters_of_.push_back(s_.n_clusters - 9 * head);
      int32_t row = kSinks;
      for (int i = 0; i < s_.n_clusters; ++i) {
        first_row_.push_back(row);
        row += 1 + random_.below(30);
      }
      first_row_.push_back(row);
    }
    n_tokens_ = *std::max_element(first_row_.begin(), first_row_.end()) + kWindow;
  }

  void run() {
    for (int work = 0; work < s_.n_works(); ++work) {
      choose_rule(work);
      check_work(work);
    }
  }

 private:
  std::vector<double> scores(int work) const {
    const int kv = work % s_.n_kv_heads, group = s_.n_query_heads / s_.n_kv_heads;
    const int first = work / s_.n_kv_heads * s_.block_tokens, end = std::min(first + s_.block_tokens, s_.n_queries);
    const auto n_own = static_cast<size_t>(n_clusters_of_[static_cast<size_t>(kv)]);
    std::vector<double> out(n_own, 0.0);
    for (int row = first * group; row < end * group; ++row) {
      const int head = row / group * s_.n_query_heads + kv * group + row % group;
      std::vector<double> weights;
      double sum = 0;
      for (size_t i = 0; i < out.size(); ++i) {
        double dot = 0;
        for (int c = 0; c < s_.head_dim; ++c) {
          uint32_t bits = 0;
          store_element(&bits, s_.dtype, 0, queries_[size_t(head * s_.head_dim + c)]);
          dot += double{load_element(&bits, s_.dtype, 0)} *
                 double{load_element(centroids_.data(), s_.dtype,
                                     (int64_t(kv) * s_.n_clusters + int64_t(i)) * s_.head_dim + c)};
        }
        weights.push_back(std::exp(dot / std::sqrt(double(s_.head_dim))));
        sum += n_keys(kv, int(i)) * weights.back();
      }
      for (size_t i = 0; i < out.size(); ++i) out[i] += weights[i] / sum / ((end - first) * group);
    }
    return out;
  }
  int n_keys(int kv, int cluster) const {
    const int32_t* first = first_row_.data() + kv * (s_.n_clusters + 1);
    return first[cluster + 1] - first[cluster];
  }

  // In a gap of the scores, so that rounding cannot turn it.
  void choose_rule(int work) {
    const std::vector<double> found = scores(work);
    std::vector<size_t> best(found.size());
    std::iota(best.begin(), best.end(), size_t{0});
    std::sort(best.begin(), best.end(), [&](size_t a, size_t b) { return found[a] > found[b]; });
    auto n = std::max<size_t>(1, static_cast<size_t>(s_.keep * double(best.size())));
    while (n < best.size() && found[best[n - 1]] < found[best[n]] * 1.0005) ++n;
    kept_.assign(found.size(), false);
    max_keys_ = s_.by_size ? 0 : -1;
    for (size_t i = 0; i < n; ++i) {
      kept_[best[i]] = true;
      if (s_.by_size) max_keys_ += n_keys(work % s_.n_kv_heads, int(best[i]));
    }
    threshold_ = n == best.size() ? -1.0f : static_cast<float>((found[best[n - 1]] + found[best[n]]) / 2);
  }

  void check_work(int work) const {
    const auto n_works = static_cast<size_t>(s_.n_works());
    const DeviceArray<float> queries(queries_);
    const DeviceArray<uint16_t> centroids(centroids_);
    const DeviceArray<int32_t> first_row(first_row_), n_of(n_clusters_of_);
    const DeviceArray<int32_t> kept(n_works * size_t(n_tokens_)), n_kept(n_works);
    const DeviceArray<int32_t> rest(n_works * size_t(s_.n_clusters)), n_rest(n_works);
    const DeviceArray<char> workspace(
        std::vector<char>(cuda::block_lookup_workspace_bytes(s_.n_queries, s_.n_query_heads, s_.n_kv_heads,
                                                             s_.block_tokens, s_.n_clusters),
                          char(-1)));
    cuda::block_lookup({.queries = queries.data(),
                        .n_queries = s_.n_queries,
                        .n_query_heads = s_.n_query_heads,
                        .n_kv_heads = s_.n_kv_heads,
                        .head_dim = s_.head_dim,
                        .scale = 1 / std::sqrt(float(s_.head_dim)),
                        .dtype = s_.dtype,
                        .block_tokens = s_.block_tokens,
                        .centroids = centroids.data(),
                        .first_row = first_row.data(),
                        .n_clusters = s_.n_clusters,
                        .n_clusters_of = n_of.data(),
                        .threshold = threshold_,
                        .max_keys = max_keys_,
                        .n_sinks = kSinks,
                        .n_window = kWindow,
                        .n_tokens = n_tokens_,
                        .kept = kept.data(),
                        .kept_stride = n_tokens_,
                        .n_kept = n_kept.data(),
                        .rest = rest.data(),
                        .rest_stride = s_.n_clusters,
                        .n_rest = n_rest.data(),
                        .workspace = workspace.data()},
                       nullptr);
    std::vector<int32_t> rows{0, 1}, dropped;
    const int32_t* first = first_row_.data() + work % s_.n_kv_heads * (s_.n_clusters + 1);
    for (size_t i = 0; i < kept_.size(); ++i) {
      if (!kept_[i]) dropped.push_back(static_cast<int32_t>(i));
      for (int row = first[i]; kept_[i] && row < first[i + 1]; ++row) rows.push_back(row);
    }
    for (int i = 0; i < kWindow; ++i) rows.push_back(n_tokens_ - kWindow + i);
    const auto own = [&](const std::vector<int32_t>& all, int64_t stride, int n) {
      return std::vector<int32_t>(all.begin() + work * stride, all.begin() + work * stride + n);
    };
    expect(own(kept.host(), n_tokens_, n_kept.host()[size_t(work)]) == rows, "kept other rows");
    expect(own(rest.host(), s_.n_clusters, n_rest.host()[size_t(work)]) == dropped, "dropped other clusters");
  }

  Setting s_;
  Random random_;
  int n_tokens_ = 0;
  std::vector<float> queries_;
  std::vector<uint16_t> centroids_;
  std::vector<int32_t> first_row_, n_clusters_of_;
  std::vector<bool> kept_;  // of the work that is being checked
  float threshold_ = 0;
  int max_keys_ = -1;
};

void check_setting(const Setting& setting) { Call(setting, 6).run(); }

}  // namespace

std::vector<Case> block_lookup_cases() {
  return {
      {"block_lookup: threshold", [] { check_setting({}); }},
      {"block_lookup: number of keys", [] { check_setting({.by_size = true}); }},
      {"block_lookup: more rows than a block of threads has",
       [] {
         check_setting({.n_queries = 50, .n_query_heads = 8, .n_kv_heads = 1, .block_tokens = 50, .n_clusters = 70});
       }},
      {"block_lookup: one token, f16", [] { check_setting({.dtype = DType::f16, .n_queries = 1, .n_kv_heads = 1}); }},
      {"block_lookup: dim 64, seven heads a group",
       [] { check_setting({.n_queries = 9, .n_query_heads = 7, .n_kv_heads = 1, .head_dim = 64}); }},
      {"block_lookup: dim 96", [] { check_setting({.n_queries = 9, .head_dim = 96, .n_clusters = 64}); }},
      {"block_lookup: dim 256", [] { check_setting({.n_queries = 9, .head_dim = 256, .n_clusters = 65}); }},
  };
}

}  // namespace squeeze::cuda_tests
