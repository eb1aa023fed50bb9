// sketch_lookup against estimates in double precision: how many keys are kept, that they are the best, and what the
// leaves lost.
#include "kernels/cuda/sketch_lookup.hpp"

#include <algorithm>
#include <numeric>
#include <set>

#include "tests/cuda/cases.hpp"

namespace squeeze::cuda_tests {
namespace {

using cuda::DeviceArray;

// What is kept: by a number of bytes, or of keys, for all heads or per head, or by a threshold.
enum class By { bytes, bytes_of, max_keys_of, threshold };

struct Setting {
  int group_dim = 4, group = 4, head_dim = 128, n_kv_heads = 2, n_requests = 1, n_clusters = 30;
  By by = By::bytes;
  double keep = 0.2;             // share of the candidates that the bytes pay for, or the threshold lets through
  double leaves = 0.7;           // share of the leaves that the lookup kept
  bool first_has_leaves = true;  // of work 0
  int max_heads = 1;
  bool same = false;  // all estimates of a leaf, and all leaves' logits, are equal
  int n_sinks = 3, n_window = 5;

  int n_works() const { return n_requests * n_kv_heads; }
};

constexpr int kSketchBytes = 18, kKeyBytes = 512;
constexpr int kRestBefore = 3;  // entries of the lookup

class Call {
 public:
  Call(const Setting& setting, uint64_t seed) : s_(setting), random_(seed) {
    const auto dim = static_cast<size_t>(s_.head_dim);
    queries_ = random_.normals(size_t(s_.n_works() * s_.group) * dim, 2);
    for (int head = 0; head < s_.n_kv_heads; ++head) {
      make_leaves();
      make_codebooks();
    }
    n_clustered_ = *std::max_element(first_row_.begin(), first_row_.end()) - s_.n_sinks;
    const size_t n_keys = size_t(s_.n_kv_heads) * size_t(n_clustered_);
    for (size_t i = 0; i < n_keys * dim / size_t(s_.group_dim) / 2; ++i) {
      codes_.push_back(s_.same ? 0x5a : static_cast<uint8_t>(random_.below(256)));
    }
    for (size_t i = 0; i < n_keys; ++i) {
      scales_.push_back(f32_to_f16(s_.same ? 0.05f : 0.03f + 0.01f * std::abs(random_.normal())));
    }
    for (int work = 0; work < s_.n_works(); ++work) make_work(work);
    if (s_.by == By::threshold) choose_threshold();
  }

  void run() {
    std::vector<int64_t> of_heads;  // bytes or keys
    for (int head = 0; head < s_.n_kv_heads; ++head) of_heads.push_back(limit_of(head));
    const DeviceArray<int64_t> bytes_of(of_heads);
    const DeviceArray<int32_t> max_keys_of(std::vector<int32_t>(of_heads.begin(), of_heads.end()));
    const DeviceArray<int32_t> n_candidates_found(std::vector<int32_t>(size_t(s_.n_works()), kUnwritten));
    const DeviceArray<float> queries(queries_), steps(steps_), error(error_), cluster_logits(cluster_logits_),
        top(top_logits_), dropped(dropped_);
    const DeviceArray<int32_t> dims(dims_);
    const DeviceArray<int8_t> entries(entries_);
    const DeviceArray<uint8_t> codes(codes_);
    const DeviceArray<uint16_t> scales(scales_);
    const DeviceArray<int32_t> first_row(first_row_), leaves(leaves_), n_leaves(n_leaves_);
    const auto n_works = static_cast<size_t>(s_.n_works());
    const size_t rest_stride = size_t(s_.n_clusters) + kRestBefore;
    const DeviceArray<int32_t> rows(std::vector<int32_t>(n_works * size_t(n_tokens()), kUnwritten)), n_rows(n_works);
    const DeviceArray<int32_t> rest(n_works * rest_stride);
    const DeviceArray<int32_t> n_rest(std::vector<int32_t>(n_works, kRestBefore)), n_rest_out(n_works);
    const DeviceArray<float> rest_logits(n_works * size_t(s_.group) * rest_stride);
    const DeviceArray<char> workspace(std::vector<char>(
        cuda::sketch_lookup_workspace_bytes(s_.n_works(), s_.group, n_clustered_, s_.n_clusters), char(-1)));
    const cuda::SketchLookupArgs args{.queries = queries.data(),
                                      .n_works = s_.n_works(),
                                      .n_kv_heads = s_.n_kv_heads,
                                      .group = s_.group,
                                      .head_dim = s_.head_dim,
                                      .scale = scale(),
                                      .group_dim = s_.group_dim,
                                      .dims = dims.data(),
                                      .entries = entries.data(),
                                      .steps = steps.data(),
                                      .error = error.data(),
                                      .codes = codes.data(),
                                      .scales = scales.data(),
                                      .n_clustered = n_clustered_,
                                      .first_row = first_row.data(),
                                      .n_clusters = s_.n_clusters,
                                      .leaves = leaves.data(),
                                      .leaves_stride = s_.n_clusters,
                                      .n_leaves = n_leaves.data(),
                                      .cluster_logits = cluster_logits.data(),
                                      .top_logits = top.data(),
                                      .dropped = dropped.data(),
                                      .max_heads = s_.max_heads,
                                      .by_threshold = s_.by == By::threshold,
                                      .threshold = threshold_,
                                      .max_keys_of = s_.by == By::max_keys_of ? max_keys_of.data() : nullptr,
                                      .bytes = s_.by == By::bytes ? bytes() : 1 << 20,
                                      .bytes_of = s_.by == By::bytes_of ? bytes_of.data() : nullptr,
                                      .sketch_bytes = kSketchBytes,
                                      .key_bytes = kKeyBytes,
                                      .n_sinks = s_.n_sinks,
                                      .n_window = s_.n_window,
                                      .n_tokens = n_tokens(),
                                      .rows = rows.data(),
                                      .rows_stride = n_tokens(),
                                      .n_rows = n_rows.data(),
                                      .n_candidates = n_candidates_found.data(),
                                      .rest = rest.data(),
                                      .rest_logits = rest_logits.data(),
                                      .rest_stride = int64_t(rest_stride),
                                      .rest_offset = 100,
                                      .n_rest = n_rest.data(),
                                      .n_rest_out = n_rest_out.data(),
                                      .workspace = workspace.data()};
    cuda::sketch_lookup(args, nullptr);
    const std::vector<int32_t> once = rows.host();
    const std::vector<float> once_logits = rest_logits.host();
    cuda::fill_device(rows.data(), kUnwrittenByte, rows.size() * sizeof(int32_t), nullptr);
    cuda::fill_device(rest_logits.data(), 0, rest_logits.size() * sizeof(float), nullptr);
    cuda::sketch_lookup(args, nullptr);  // the same bits again
    expect(rows.host() == once && rest_logits.host() == once_logits, "a second call writes something else");
    const std::vector<int32_t> all_rows = rows.host(), counts = n_rows.host(), n_rest_found = n_rest_out.host();
    const std::vector<int32_t> all_rest = rest.host();
    const std::vector<float> logits = rest_logits.host();
    const std::vector<int32_t> candidates_found = n_candidates_found.host();
    for (int work = 0; work < s_.n_works(); ++work) {
      expect(candidates_found[size_t(work)] == n_candidates(work), "number of candidates");
      const std::span<const int32_t> own(all_rows.data() + work * n_tokens(), size_t(counts[size_t(work)]));
      const std::set<int32_t> kept = check_rows(work, own);
      expect(n_rest_found[size_t(work)] == kRestBefore + n_leaves_[size_t(work)], "number of rest entries");
      check_rest(work, kept, all_rest.data() + size_t(work) * rest_stride + kRestBefore,
                 logits.data() + size_t(work * s_.group) * rest_stride + kRestBefore, rest_stride);
    }
  }

 private:
  float scale() const { return 1 / std::sqrt(static_cast<float>(s_.head_dim)); }
  int n_tokens() const { return s_.n_sinks + n_clustered_ + s_.n_window; }
  // What pays for `keep` of the candidates of the first work that has some.
  int64_t bytes() const {
    int64_t n = 0;
    for (int work = 0; work < s_.n_works() && n == 0; ++work) n = n_candidates(work);
    return n * kSketchBytes + static_cast<int64_t>(s_.keep * double(n)) * kKeyBytes + kKeyBytes / 2;
  }
  // The limit of one head where heads have their own: each another one.
  int64_t limit_of(int head) const {
    return s_.by == By::bytes_of ? bytes() - head * 10 * kKeyBytes : 20 + 15 * head - 60 * (head == 2);
  }
  int64_t max_keys(int work) const {
    const int64_t limit = limit_of(work % s_.n_kv_heads), n = n_candidates(work);
    const int64_t of_bytes = ((s_.by == By::bytes_of ? limit : bytes()) - n * kSketchBytes) / kKeyBytes;
    return std::clamp<int64_t>(s_.by == By::max_keys_of ? limit : of_bytes, 0, n);
  }

  void make_leaves() {
    int32_t row = s_.n_sinks;
    for (int i = 0; i < s_.n_clusters; ++i) {
      first_row_.push_back(row);
      row += i == 3 ? 90 : 1 + random_.below(40);
    }
    first_row_.push_back(row);
  }

  void make_work(int work) {
    std::vector<int32_t> own;
    for (int i = 0; i < s_.n_clusters; ++i) {
      const bool keep = random_.below(1000) < 1000 * s_.leaves;
      if (keep && (work > 0 || s_.first_has_leaves)) own.push_back(i);
    }
    n_leaves_.push_back(static_cast<int32_t>(own.size()));
    own.resize(size_t(s_.n_clusters), -1);
    leaves_.insert(leaves_.end(), own.begin(), own.end());
    for (int head = 0; head < s_.group; ++head) {
      float top = -1e30f;
      for (int i = 0; i < s_.n_clusters; ++i) {
        cluster_logits_.push_back(s_.same ? 1.0f : 2 * random_.normal());
        top = std::max(top, cluster_logits_.back());
      }
      top_logits_.push_back(top);
      dropped_.push_back(top - 3);
      dropped_.push_back(5 * std::abs(random_.normal()));
    }
  }

  std::span<const int32_t> leaves(int work) const {
    return {leaves_.data() + work * s_.n_clusters, size_t(n_leaves_[size_t(work)])};
  }
  int32_t first_row(int work, int leaf) const {
    return first_row_[size_t(work % s_.n_kv_heads * (s_.n_clusters + 1) + leaf)];
  }
  int64_t n_candidates(int work) const {
    int64_t n = 0;
    for (const int leaf : leaves(work)) n += first_row(work, leaf + 1) - first_row(work, leaf);
    return n;
  }

  // Of one head: dimensions in any order, random entries, steps of all sizes.
  void make_codebooks() {
    std::vector<int32_t> dims(size_t(s_.head_dim));
    std::iota(dims.begin(), dims.end(), 0);
    for (size_t i = dims.size() - 1; i > 0; --i) std::swap(dims[i], dims[size_t(random_.below(int(i) + 1))]);
    dims_.insert(dims_.end(), dims.begin(), dims.end());
    for (int c = 0; c < s_.head_dim; ++c) {
      steps_.push_back((0.2f + 0.1f * std::abs(random_.normal())) / 40);
      for (int b = 0; b < 16; ++b) entries_.push_back(static_cast<int8_t>(random_.below(255) - 127));
    }
    error_.push_back(0.1f + 0.1f * float(error_.size()));
  }

  // The query in the order of the codes, in steps, rounded as the kernel does.
  std::vector<double> stepped(int work, int head) const {
    const size_t dim = size_t(s_.head_dim), first = size_t(work % s_.n_kv_heads) * dim;
    std::vector<double> out(dim);
    double largest = 0;
    for (size_t c = 0; c < dim; ++c) {
      const float x = queries_[size_t(work * s_.group + head) * dim + size_t(dims_[first + c])];
      out[c] = double{x} * double{steps_[first + c]};
      largest = std::max(largest, std::abs(out[c]));
    }
    const double step = largest / 32000 * (s_.group <= 8 ? 1 : 256);
    for (double& x : out) x = std::floor(x / step + 0.5) * step;
    return out;
  }

  double estimate(int work, int head, int leaf, int row, const std::vector<double>& query) const {
    const int64_t key = int64_t(work % s_.n_kv_heads) * n_clustered_ + row - s_.n_sinks;
    const int dims = s_.group_dim, n_groups = s_.head_dim / dims;
    const uint8_t* code = codes_.data() + key * n_groups / 2;
    const int8_t* entries = entries_.data() + int64_t(work % s_.n_kv_heads) * n_groups * 16 * dims;
    double dot = 0;
    for (int c = 0; c < s_.head_dim; ++c) {
      const int g = c / dims, entry = code[g / 2] >> (g % 2 * 4) & 15;
      dot += query[size_t(c)] * entries[(g * 16 + entry) * dims + c % dims];
    }
    return double{cluster_logits_[size_t((work * s_.group + head) * s_.n_clusters + leaf)]} +
           double{scale()} * double{f16_to_f32(scales_[size_t(key)])} * dot;
  }

  // Per row of the candidates, exp(estimate) of each head.
  std::vector<std::pair<int32_t, std::vector<double>>> weights(int work) const {
    std::vector<std::pair<int32_t, std::vector<double>>> out;
    for (const int leaf : leaves(work)) {
      for (int row = first_row(work, leaf); row < first_row(work, leaf + 1); ++row) out.push_back({row, {}});
    }
    for (int head = 0; head < s_.group; ++head) {
      const std::vector<double> query = stepped(work, head);
      size_t i = 0;
      for (const int leaf : leaves(work)) {
        for (int row = first_row(work, leaf); row < first_row(work, leaf + 1); ++row) {
          out[i++].second.push_back(std::exp(estimate(work, head, leaf, row, query)));
        }
      }
    }
    return out;
  }

  // Mean over the heads of a candidate's share, in the order of weights().
  std::vector<double> scores(int work) const {
    const auto all = weights(work);
    std::vector<double> sums, out;
    for (int head = 0; head < s_.group; ++head) {
      const size_t at = size_t(work * s_.group + head) * 2;
      sums.push_back(double{dropped_[at + 1]} * std::exp(double{dropped_[at]}));
    }
    for (const auto& [row, of_heads] : all) {
      for (size_t head = 0; head < of_heads.size(); ++head) sums[head] += of_heads[head];
    }
    for (const auto& [row, of_heads] : all) {
      std::vector<double> views(size_t(s_.max_heads), 0.0);
      for (size_t head = 0; head < of_heads.size(); ++head) {
        views[head % views.size()] += of_heads[head] / sums[head] / (s_.group / s_.max_heads);
      }
      out.push_back(*std::max_element(views.begin(), views.end()));
    }
    return out;
  }

  // One that lets `keep` of the candidates of the last work through, or all or nothing.
  void choose_threshold() {
    std::vector<double> found = scores(s_.n_works() - 1);
    std::sort(found.rbegin(), found.rend());
    const auto n_kept = static_cast<size_t>(s_.keep * double(found.size()));
    threshold_ = n_kept == 0 ? 1.0f : n_kept >= found.size() ? 0.0f : static_cast<float>(found[n_kept]);
  }

  // Rounding of weights to bf16, a query's integer that rounds the other way, and bins of a 32nd of an octave.
  double score_limit() const {
    return 1.0 / 256 + (s_.group <= 8 ? 1e-4 : 0.04) + (s_.by == By::threshold ? 0 : 0.035);
  }

  std::set<int32_t> check_rows(int work, std::span<const int32_t> rows) const {
    if (s_.by != By::threshold) {
      expect(
          std::ssize(rows) == s_.n_sinks + max_keys(work) + s_.n_window,
          "kept " + std::to_string(rows.size()) + " rows, expected " + std::to_string(max_keys(work)) + " and pinned");
    }
    expect(std::is_sorted(rows.begin(), rows.end()) && std::adjacent_find(rows.begin(), rows.end()) == rows.end(),
           "rows do not ascend");
    for (int i = 0; i < s_.n_sinks; ++i) expect(rows[size_t(i)] == i, "sinks");
    for (int i = 0; i < s_.n_window; ++i) {
      expect(rows[rows.size() - size_t(s_.n_window - i)] == n_tokens() - s_.n_window + i, "window");
    }
    const std::set<int32_t> kept(rows.begin() + s_.n_sinks, rows.end() - s_.n_window);
    const auto all = weights(work);
    const std::vector<double> all_scores = scores(work);
    double worst_kept = 1e30, best_dropped = 0;
    size_t n_found = 0;
    int32_t last_kept = -1, first_dropped = 1 << 30;
    for (size_t i = 0; i < all.size(); ++i) {
      const int32_t row = all[i].first;
      const double score = all_scores[i];
      if (kept.count(row)) {
        ++n_found;
        worst_kept = std::min(worst_kept, score);
        last_kept = std::max(last_kept, row);
      } else {
        best_dropped = std::max(best_dropped, score);
        first_dropped = std::min(first_dropped, row);
      }
    }
    expect(n_found == kept.size(), "a row that is no candidate");
    if (s_.by == By::threshold) {
      const double limit = score_limit() * double{threshold_};
      expect(worst_kept > double{threshold_} - limit, "a key below the threshold was kept");
      expect(best_dropped <= double{threshold_} + limit, "a key above the threshold was dropped");
      return kept;
    }
    expect(worst_kept >= best_dropped * (1 - score_limit()),
           "a key was dropped that is better than one that was kept: " + std::to_string(best_dropped / worst_kept));
    if (s_.same) expect(last_kept < first_dropped, "of equals the first are to be kept");
    return kept;
  }

  double miss(int work, int head, int leaf) const {
    double squares = 0, squared_scale = 0;
    for (int c = 0; c < s_.head_dim; ++c) {
      const double q = double{queries_[size_t((work * s_.group + head) * s_.head_dim + c)]};
      squares += q * q;
    }
    const int begin = first_row(work, leaf), end = first_row(work, leaf + 1);
    for (int row = begin; row < end; ++row) {
      const double x = double{f16_to_f32(scales_[size_t(work % s_.n_kv_heads * n_clustered_ + row - s_.n_sinks)])};
      squared_scale += x * x / (end - begin);
    }
    return 0.5 * double{scale()} * double{scale()} * squares * double{error_[size_t(work % s_.n_kv_heads)]} *
           squared_scale;
  }

  void check_rest(int work, const std::set<int32_t>& kept, const int32_t* rest, const float* logits,
                  size_t stride) const {
    const auto all = weights(work);
    size_t i = 0;
    for (size_t l = 0; l < leaves(work).size(); ++l) {
      const int leaf = leaves(work)[l];
      expect(rest[l] == leaf + 100, "rest entry of another leaf");
      std::vector<double> lost(size_t(s_.group), 0.0);
      bool any = false;
      for (int row = first_row(work, leaf); row < first_row(work, leaf + 1); ++row, ++i) {
        if (kept.count(row)) continue;
        any = true;
        for (size_t head = 0; head < lost.size(); ++head) lost[head] += all[i].second[head];
      }
      for (size_t head = 0; head < lost.size(); ++head) {
        const float found = logits[head * stride + l];
        if (!any) {
          expect(found == -INFINITY, "a leaf that lost nothing");
          continue;
        }
        const double expected = std::log(lost[head]) + miss(work, int(head), leaf);
        expect_close("mass of a leaf's dropped keys", {&found, 1}, {&expected, 1}, s_.group <= 8 ? 0.005 : 0.05);
      }
    }
  }

  Setting s_;
  Random random_;
  int n_clustered_ = 0;
  float threshold_ = 0;
  std::vector<float> queries_, steps_, error_, cluster_logits_, top_logits_, dropped_;
  std::vector<int32_t> dims_;
  std::vector<int8_t> entries_;
  std::vector<uint8_t> codes_;
  std::vector<uint16_t> scales_;
  std::vector<int32_t> first_row_, leaves_, n_leaves_;
};

void check_setting(const Setting& setting) { Call(setting, 3).run(); }

}  // namespace

std::vector<Case> sketch_lookup_cases() {
  return {
      {"sketch_lookup: one bit", [] { check_setting({}); }},
      {"sketch_lookup: two bits", [] { check_setting({.group_dim = 2}); }},
      {"sketch_lookup: half a bit", [] { check_setting({.group_dim = 8}); }},
      {"sketch_lookup: two requests", [] { check_setting({.n_requests = 2}); }},
      {"sketch_lookup: many leaves", [] { check_setting({.n_kv_heads = 1, .n_clusters = 200, .keep = 0.05}); }},
      {"sketch_lookup: a work without leaves", [] { check_setting({.first_has_leaves = false}); }},
      {"sketch_lookup: no leaves at all", [] { check_setting({.leaves = 0}); }},
      {"sketch_lookup: bytes for nothing", [] { check_setting({.keep = 0}); }},
      {"sketch_lookup: bytes for everything", [] { check_setting({.keep = 1.5}); }},
      {"sketch_lookup: bytes per head", [] { check_setting({.n_kv_heads = 3, .n_requests = 2, .by = By::bytes_of}); }},
      {"sketch_lookup: numbers of keys per head",
       [] { check_setting({.n_kv_heads = 3, .n_requests = 2, .by = By::max_keys_of}); }},
      {"sketch_lookup: threshold", [] { check_setting({.n_requests = 2, .by = By::threshold}); }},
      {"sketch_lookup: threshold, two bits, many leaves",
       [] { check_setting({.group_dim = 2, .n_clusters = 200, .by = By::threshold, .keep = 0.05}); }},
      {"sketch_lookup: threshold, sixteen heads",
       [] { check_setting({.group_dim = 2, .group = 16, .by = By::threshold, .keep = 0.3}); }},
      {"sketch_lookup: threshold that keeps nothing", [] { check_setting({.by = By::threshold, .keep = 0}); }},
      {"sketch_lookup: threshold that keeps everything", [] { check_setting({.by = By::threshold, .keep = 1}); }},
      {"sketch_lookup: threshold, a work without leaves",
       [] { check_setting({.by = By::threshold, .first_has_leaves = false}); }},
      {"sketch_lookup: the largest of a group's heads", [] { check_setting({.max_heads = 4}); }},
      {"sketch_lookup: the largest of two heads, eight tokens, threshold",
       [] { check_setting({.group = 16, .by = By::threshold, .keep = 0.3, .max_heads = 2}); }},
      {"sketch_lookup: equal scores", [] { check_setting({.n_kv_heads = 1, .same = true}); }},
      {"sketch_lookup: dim 64", [] { check_setting({.head_dim = 64}); }},
      {"sketch_lookup: dim 64, half a bit", [] { check_setting({.group_dim = 8, .head_dim = 64}); }},
      {"sketch_lookup: dim 64, two bits", [] { check_setting({.group_dim = 2, .head_dim = 64}); }},
      {"sketch_lookup: dim 96", [] { check_setting({.head_dim = 96}); }},
      {"sketch_lookup: dim 96, half a bit", [] { check_setting({.group_dim = 8, .head_dim = 96}); }},
      {"sketch_lookup: dim 256, half a bit", [] { check_setting({.group_dim = 8, .head_dim = 256}); }},
      {"sketch_lookup: dim 256, two bits", [] { check_setting({.group_dim = 2, .head_dim = 256}); }},
      {"sketch_lookup: dim 96, two bits", [] { check_setting({.group_dim = 2, .head_dim = 96}); }},
      {"sketch_lookup: dim 256", [] { check_setting({.head_dim = 256}); }},
      {"sketch_lookup: one head a group", [] { check_setting({.group = 1}); }},
      {"sketch_lookup: sixteen heads a group, two bits", [] { check_setting({.group_dim = 2, .group = 16}); }},
      {"sketch_lookup: nine heads a group, dim 64", [] { check_setting({.group = 9, .head_dim = 64}); }},
  };
}

}  // namespace squeeze::cuda_tests
