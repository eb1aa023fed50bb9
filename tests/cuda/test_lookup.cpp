// lookup against scores in double precision: what is kept, what is dropped, and their masses.
#include "kernels/cuda/lookup.hpp"

#include <algorithm>
#include <numeric>

#include "tests/cuda/cases.hpp"

namespace squeeze::cuda_tests {
namespace {

using cuda::DeviceArray;

struct Setting {
  DType dtype = DType::bf16;
  int group = 4, head_dim = 128, n_kv_heads = 2, n_requests = 1, n_clusters = 60;
  double keep = 0.3;      // share of the clusters: the threshold or max_keys lies in a gap of the scores nearby
  bool by_size = false;   // max_keys, else threshold
  bool per_head = false;  // max_keys_of, else max_keys
  bool leaves = true;     // else a level above
  bool in_play = false;   // only some clusters, and mass dropped above
  bool same = false;      // all centroids the same: ties
  int max_heads = 1;
  int n_sinks = 3, n_window = 5;

  int n_works() const { return n_requests * n_kv_heads; }
};

// Expected of one work.
struct Expected {
  std::vector<int32_t> kept, rest;
  std::vector<std::vector<double>> rest_logits;  // per head
  std::vector<double> log_dropped;               // per head
};

class Call {
 public:
  Call(const Setting& setting, uint64_t seed) : s_(setting), random_(seed) {
    const auto n = static_cast<size_t>(s_.n_clusters);
    queries_ = random_.normals(size_t(s_.n_works() * s_.group * s_.head_dim));
    for (int head = 0; head < s_.n_kv_heads; ++head) {
      n_clusters_of_.push_back(s_.n_clusters - 7 * head);
      make_head(n);
    }
    for (int work = 0; work < s_.n_works(); ++work) choose_items(work);
    dropped_ = random_.normals(size_t(s_.n_works() * s_.group) * 2);
    for (size_t i = 1; i < dropped_.size(); i += 2) dropped_[i] = std::abs(dropped_[i]) * 20;
  }

  void run() {
    // One threshold serves all works: they are run one at a time.
    for (int work = 0; work < s_.n_works(); ++work) {
      choose_rule(work);
      check_work(work, run_kernel(work));
    }
  }

 private:
  struct Result {
    std::vector<int32_t> kept, n_kept, rest, n_rest;
    std::vector<float> rest_logits, dropped, cluster_logits, top_logits;
  };

  int n_tokens() const { return first_row_.back() + s_.n_window; }
  int64_t kept_stride() const { return n_tokens(); }

  void make_head(size_t n) {
    const size_t dim = size_t(s_.head_dim);
    std::vector<float> rows = random_.normals(n * dim);
    if (s_.same) {
      for (size_t i = dim; i < rows.size(); ++i) rows[i] = rows[i % dim];
    }
    int32_t row = s_.n_sinks, child = 0;
    for (size_t i = 0; i < n; ++i) {
      first_row_.push_back(row);
      first_child_.push_back(child);
      row += 1 + random_.below(40);
      child += 1 + random_.below(3);
    }
    first_row_.push_back(row);
    first_child_.push_back(child);
    for (size_t i = 0; i < n; ++i) {
      const float scale = s_.dtype == DType::i8 ? 0.01f + 0.001f * float(random_.below(20)) : 1.0f;
      scales_.push_back(scale);
      for (size_t c = 0; c < dim; ++c) {
        const float x = s_.dtype == DType::i8 ? std::clamp(std::round(rows[i * dim + c] / scale), -127.0f, 127.0f)
                                              : rows[i * dim + c];
        centroids_.resize(centroids_.size() + size_of(s_.dtype));
        store_element(centroids_.data(), s_.dtype, int64_t(centroids_.size() / size_of(s_.dtype)) - 1, x);
      }
    }
  }

  void choose_items(int work) {
    const int n = n_clusters_of_[size_t(work % s_.n_kv_heads)];
    std::vector<int32_t> own;
    for (int i = 0; i < n; ++i) {
      if (!s_.in_play || random_.below(2)) own.push_back(i);
    }
    n_items_.push_back(static_cast<int32_t>(own.size()));
    own.resize(size_t(s_.n_clusters), -1);
    items_.insert(items_.end(), own.begin(), own.end());
  }

  std::span<const int32_t> items(int work) const {
    return {items_.data() + work * s_.n_clusters, size_t(n_items_[size_t(work)])};
  }
  int32_t first_row(int work, int cluster) const {
    return first_row_[size_t(work % s_.n_kv_heads * (s_.n_clusters + 1) + cluster)];
  }
  int32_t first_child(int work, int cluster) const {
    return first_child_[size_t(work % s_.n_kv_heads * (s_.n_clusters + 1) + cluster)];
  }
  int n_keys(int work, int cluster) const { return first_row(work, cluster + 1) - first_row(work, cluster); }

  double logit(int work, int head, int cluster) const {
    const int64_t row = int64_t(work) % s_.n_kv_heads * s_.n_clusters + cluster;
    double dot = 0;
    for (int c = 0; c < s_.head_dim; ++c) {
      const float q = queries_[size_t((work * s_.group + head) * s_.head_dim + c)];
      dot += query_element(q) * double{load_element(centroids_.data(), s_.dtype, row * s_.head_dim + c)};
    }
    return dot * double{scale()} * double{scales_[size_t(row)]};
  }
  double query_element(float x) const {
    if (s_.group <= 8) return double{x};
    uint32_t bits = 0;
    const DType type = s_.dtype == DType::i8 ? DType::f16 : s_.dtype;
    store_element(&bits, type, 0, x);
    return double{load_element(&bits, type, 0)};
  }
  float scale() const { return 1 / std::sqrt(static_cast<float>(s_.head_dim)); }

  std::vector<double> scores(int work) const {
    std::vector<double> best(items(work).size(), 0.0);
    for (int view = 0; view < s_.max_heads; ++view) {
      const std::vector<double> own = scores_of(work, view);
      for (size_t i = 0; i < best.size(); ++i) best[i] = std::max(best[i], own[i]);
    }
    return best;
  }

  // The mean of the rows that are one head's.
  std::vector<double> scores_of(int work, int view) const {
    std::vector<double> out(items(work).size(), 0.0);
    for (int head = view; head < s_.group; head += s_.max_heads) {
      double sum = 0;
      if (s_.in_play) {
        const size_t at = size_t(work * s_.group + head) * 2;
        sum = double{dropped_[at + 1]} * std::exp(double{dropped_[at]});
      }
      for (const int cluster : items(work)) sum += n_keys(work, cluster) * std::exp(logit(work, head, cluster));
      for (size_t i = 0; i < out.size(); ++i)
        out[i] += std::exp(logit(work, head, items(work)[i])) / sum / (s_.group / s_.max_heads);
    }
    return out;
  }

  // Best first, the lower one of equals first.
  std::vector<size_t> order(const std::vector<double>& scores) const {
    std::vector<size_t> best(scores.size());
    std::iota(best.begin(), best.end(), size_t{0});
    std::stable_sort(best.begin(), best.end(), [&](size_t a, size_t b) { return scores[a] > scores[b] * (1 + 1e-9); });
    return best;
  }

  // A threshold, or a number of keys, that rounding cannot turn: in a gap of the scores.
  void choose_rule(int work) {
    const std::vector<double> found = scores(work);
    const std::vector<size_t> best = order(found);
    auto n_kept = static_cast<size_t>(s_.keep * double(best.size()));
    const auto is_gap = [&](size_t i) { return s_.same || found[best[i - 1]] > found[best[i]] * 1.001; };
    while (n_kept > 0 && n_kept < best.size() && !is_gap(n_kept)) ++n_kept;
    kept_.assign(best.size(), false);
    max_keys_ = -1;
    threshold_ = n_kept == 0             ? 1e30f
                 : n_kept == best.size() ? -1.0f
                                         : static_cast<float>((found[best[n_kept - 1]] + found[best[n_kept]]) / 2);
    for (size_t i = 0; i < n_kept; ++i) kept_[best[i]] = true;
    if (!s_.by_size) return;
    int n = 0;
    for (size_t i = 0; i < n_kept; ++i) n += n_keys(work, items(work)[best[i]]);
    max_keys_ = n;
    if (n_kept < best.size()) max_keys_ += n_keys(work, items(work)[best[n_kept]]) - 1;  // one key short of the next
    // The best one is kept even if it holds more.
    if (n_kept == 0 && max_keys_ > 0) kept_[best[0]] = true;
  }

  Result run_kernel(int work) const {
    std::vector<int32_t> of_heads(size_t(s_.n_kv_heads), 2);
    of_heads[size_t(work % s_.n_kv_heads)] = max_keys_;
    const DeviceArray<int32_t> max_keys_of(of_heads);
    const DeviceArray<float> queries(queries_), scales(scales_), dropped(dropped_);
    const DeviceArray<char> centroids(centroids_);
    const DeviceArray<int32_t> first_row(first_row_), first_child(first_child_), n_of(n_clusters_of_), items(items_),
        n_items(n_items_);
    const auto n_works = static_cast<size_t>(s_.n_works());
    const size_t rest_stride = size_t(s_.n_clusters) + 4;
    const DeviceArray<int32_t> kept(std::vector<int32_t>(n_works * size_t(kept_stride()), kUnwritten)), n_kept(n_works);
    const DeviceArray<int32_t> rest(std::vector<int32_t>(n_works * rest_stride, kUnwritten));
    const std::vector<int32_t> n_rest_before(n_works, 2);  // two from the level above
    const DeviceArray<int32_t> n_rest(n_rest_before);
    const DeviceArray<float> rest_logits(n_works * size_t(s_.group) * rest_stride);
    const DeviceArray<float> cluster_logits(n_works * size_t(s_.group) * size_t(s_.n_clusters));
    const DeviceArray<float> top_logits(n_works * size_t(s_.group));
    const DeviceArray<float> dropped_out(n_works * size_t(s_.group) * 2);
    const DeviceArray<char> workspace(cuda::lookup_workspace_bytes(s_.n_works(), s_.group, s_.n_clusters));
    const cuda::LookupArgs args{.queries = queries.data(),
                                .n_works = s_.n_works(),
                                .n_kv_heads = s_.n_kv_heads,
                                .group = s_.group,
                                .head_dim = s_.head_dim,
                                .scale = scale(),
                                .centroids = centroids.data(),
                                .centroid_scales = s_.dtype == DType::i8 ? scales.data() : nullptr,
                                .dtype = s_.dtype,
                                .first_row = first_row.data(),
                                .first_child = s_.leaves ? nullptr : first_child.data(),
                                .n_clusters = s_.n_clusters,
                                .n_clusters_of = n_of.data(),
                                .items = s_.in_play ? items.data() : nullptr,
                                .n_items = s_.in_play ? n_items.data() : nullptr,
                                .dropped = s_.in_play ? dropped.data() : nullptr,
                                .threshold = threshold_,
                                .max_keys = s_.per_head ? 1 : max_keys_,
                                .max_heads = s_.max_heads,
                                .max_keys_of = s_.per_head ? max_keys_of.data() : nullptr,
                                .n_sinks = s_.n_sinks,
                                .n_window = s_.n_window,
                                .n_tokens = n_tokens(),
                                .kept = kept.data(),
                                .kept_stride = kept_stride(),
                                .n_kept = n_kept.data(),
                                .rest = rest.data(),
                                .rest_logits = rest_logits.data(),
                                .n_rest = n_rest.data(),
                                .rest_stride = int64_t(rest_stride),
                                .rest_offset = 1000,
                                .dropped_out = dropped_out.data(),
                                .cluster_logits = cluster_logits.data(),
                                .top_logits = top_logits.data(),
                                .workspace = workspace.data()};
    cuda::lookup(args, nullptr);
    const std::vector<int32_t> once = kept.host(), once_rest = rest.host();
    for (const DeviceArray<int32_t>* out : {&kept, &n_kept, &rest}) {
      cuda::fill_device(out->data(), kUnwrittenByte, out->size() * sizeof(int32_t), nullptr);
    }
    cuda::copy_to_device(n_rest.data(), n_rest_before.data(), n_works * sizeof(int32_t), nullptr);
    cuda::lookup(args, nullptr);  // the workspace is fit for a second call
    expect(kept.host() == once && rest.host() == once_rest, "a second call writes something else");
    return {kept.host(),        n_kept.host(),      rest.host(),           n_rest.host(),
            rest_logits.host(), dropped_out.host(), cluster_logits.host(), top_logits.host()};
  }

  Expected expected(int work) const {
    Expected out;
    if (s_.leaves) {
      for (int i = 0; i < s_.n_sinks; ++i) out.kept.push_back(i);
    }
    out.rest_logits.resize(size_t(s_.group));
    for (size_t i = 0; i < kept_.size(); ++i) {
      const int cluster = items(work)[i];
      if (kept_[i]) {
        const int begin = s_.leaves ? first_row(work, cluster) : first_child(work, cluster);
        const int end = s_.leaves ? first_row(work, cluster + 1) : first_child(work, cluster + 1);
        for (int k = begin; k < end; ++k) out.kept.push_back(k);
        continue;
      }
      out.rest.push_back(cluster + 1000);
      for (int head = 0; head < s_.group; ++head) {
        out.rest_logits[size_t(head)].push_back(logit(work, head, cluster) + std::log(n_keys(work, cluster)));
      }
    }
    if (s_.leaves) {
      for (int i = 0; i < s_.n_window; ++i) out.kept.push_back(n_tokens() - s_.n_window + i);
    }
    for (int head = 0; head < s_.group; ++head) {
      const size_t at = size_t(work * s_.group + head) * 2;
      double sum = s_.in_play ? double{dropped_[at + 1]} * std::exp(double{dropped_[at]}) : 0;
      for (const double x : out.rest_logits[size_t(head)]) sum += std::exp(x);
      out.log_dropped.push_back(std::log(sum));
    }
    return out;
  }

  void check_work(int work, const Result& found) const {
    const Expected wanted = expected(work);
    const auto w = static_cast<size_t>(work);
    expect(found.n_kept[w] == std::ssize(wanted.kept),
           "kept " + std::to_string(found.n_kept[w]) + ", expected " + std::to_string(wanted.kept.size()));
    expect(std::equal(wanted.kept.begin(), wanted.kept.end(), found.kept.begin() + work * kept_stride()),
           "kept other rows");
    const size_t n_before = s_.in_play ? 2 : 0;
    const size_t stride = size_t(s_.n_clusters) + 4;
    expect(found.n_rest[w] == static_cast<int32_t>(wanted.rest.size() + n_before), "number of dropped");
    expect(
        std::equal(wanted.rest.begin(), wanted.rest.end(), found.rest.begin() + std::ptrdiff_t(w * stride + n_before)),
        "dropped other clusters");
    for (size_t head = 0; head < size_t(s_.group); ++head) {
      const size_t row = w * size_t(s_.group) + head;
      const std::vector<double>& logits = wanted.rest_logits[head];
      expect_close("logits of what is dropped", {found.rest_logits.data() + row * stride + n_before, logits.size()},
                   logits, 1e-4);
      check_logits(work, int(head), found);
      const float max = found.dropped[2 * row], sum = found.dropped[2 * row + 1];
      if (wanted.log_dropped[head] > -1e300) {
        const float log_dropped = max + std::log(sum);
        expect_close("dropped mass", {&log_dropped, 1}, {&wanted.log_dropped[head], 1}, 1e-4);
      } else {
        expect(sum == 0.0f, "dropped mass of nothing");
      }
    }
  }

  void check_logits(int work, int head, const Result& found) const {
    const size_t row = size_t(work * s_.group + head);
    double top = s_.in_play ? double{dropped_[2 * row]} : -1e300;
    for (const int cluster : items(work)) {
      const double expected = logit(work, head, cluster);
      top = std::max(top, expected);
      expect_close("logit of a cluster", {&found.cluster_logits[row * size_t(s_.n_clusters) + size_t(cluster)], 1},
                   {&expected, 1}, 1e-4);
    }
    expect_close("top logit", {&found.top_logits[row], 1}, {&top, 1}, 1e-4);
  }

  Setting s_;
  Random random_;
  std::vector<float> queries_, scales_, dropped_;
  std::vector<char> centroids_;
  std::vector<int32_t> first_row_, first_child_, n_clusters_of_, items_, n_items_;
  std::vector<bool> kept_;  // of the work that is being checked
  float threshold_ = 0;
  int max_keys_ = -1;
};

void check_setting(const Setting& setting) { Call(setting, 2).run(); }

}  // namespace

std::vector<Case> lookup_cases() {
  return {
      {"lookup: threshold", [] { check_setting({}); }},
      {"lookup: two requests", [] { check_setting({.n_requests = 2}); }},
      {"lookup: many clusters", [] { check_setting({.n_clusters = 1200, .keep = 0.1}); }},
      {"lookup: threshold that keeps nothing", [] { check_setting({.keep = 0}); }},
      {"lookup: threshold that keeps everything", [] { check_setting({.keep = 1}); }},
      {"lookup: number of keys", [] { check_setting({.by_size = true}); }},
      {"lookup: number of keys, many clusters",
       [] { check_setting({.n_clusters = 1200, .keep = 0.1, .by_size = true}); }},
      {"lookup: number of keys that holds everything", [] { check_setting({.keep = 1, .by_size = true}); }},
      {"lookup: fewer keys than the best cluster holds", [] { check_setting({.keep = 0, .by_size = true}); }},
      {"lookup: numbers of keys per head",
       [] { check_setting({.n_kv_heads = 3, .n_requests = 2, .by_size = true, .per_head = true}); }},
      {"lookup: the largest of a group's heads", [] { check_setting({.max_heads = 4}); }},
      {"lookup: the largest of two heads, four tokens",
       [] { check_setting({.group = 8, .by_size = true, .max_heads = 2}); }},
      {"lookup: equal scores", [] { check_setting({.n_clusters = 700, .by_size = true, .same = true}); }},
      {"lookup: a level above", [] { check_setting({.leaves = false}); }},
      {"lookup: some clusters in play", [] { check_setting({.in_play = true}); }},
      {"lookup: some clusters in play, number of keys", [] { check_setting({.by_size = true, .in_play = true}); }},
      {"lookup: 8-bit centroids", [] { check_setting({.dtype = DType::i8}); }},
      {"lookup: f16, nine heads a group, dim 96",
       [] { check_setting({.dtype = DType::f16, .group = 9, .head_dim = 96}); }},
      {"lookup: one head a group, dim 64", [] { check_setting({.group = 1, .head_dim = 64}); }},
      {"lookup: 8-bit centroids, sixteen heads, dim 256",
       [] { check_setting({.dtype = DType::i8, .group = 16, .head_dim = 256}); }},
  };
}

}  // namespace squeeze::cuda_tests
