// Rules of all heads of a layer, as one set of numbers or one number per head.
#include "lib/attention/cuda_plan.hpp"

#include <algorithm>
#include <functional>
#include <limits>

#include "lib/attention/budget.hpp"
#include "lib/core/error.hpp"

namespace squeeze {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

class Planner {
 public:
  Planner(const CudaLayer& layer, Rest rest, const CudaStream& stream) : layer_(layer), rest_(rest), stream_(stream) {}

  CudaPlan plan(int number, const Rules& rules, int64_t n_query_tokens) {
    for (size_t h = 0; h < layer_.heads.size(); ++h) {
      SelectionRule& rule = rules_.emplace_back();
      rules(number, static_cast<int>(h), layer_.heads[h], n_query_tokens, rule);
    }
    check();
    const SelectionRule& rule = rules_[0];
    plan_.dense = layer_.n_clustered() == 0 || rule.rule == Rule::all;
    if (plan_.dense) return std::move(plan_);
    if (layer_.levels.empty()) {
      fail("this context has {} clustered tokens but no clusters: build an index or use the dense policy",
           layer_.n_clustered());
    }
    plan_.levels.resize(layer_.levels.size());
    plan_.largest = rule.group.select != GqaSelect::group_mean;  // by a threshold: what any head would keep
    rule.rule == Rule::bytes ? spend() : prune();
    plan_.most_rows = std::min(plan_.most_rows, layer_.n_clustered()) + layer_.n_sinks() + layer_.n_window();
    return std::move(plan_);
  }

 private:
  size_t leaves() const { return layer_.levels.size() - 1; }

  void check() const {
    const SelectionRule& first = rules_[0];
    for (const SelectionRule& rule : rules_) {
      if (rule.rule != first.rule || rule.thresholds != first.thresholds || rule.top_k != first.top_k) {
        fail("a CUDA device needs one rule for all KV heads of a layer");
      }
    }
    if (first.rule == Rule::top_p) fail("top-p selects on the CPU only (--device cpu)");
    const bool counts = first.rule != Rule::all && first.rule != Rule::threshold;
    if (counts && first.group.select == GqaSelect::per_head) {
      fail(
          "on a CUDA device query heads share a number of keys or bytes; this index was calibrated with --gqa-select "
          "per-head: use --sparsity, or --device cpu");
    }
  }

  template <class T>
  void per_head(CudaBuffer<T>& buffer, const std::function<T(size_t)>& value) {
    std::vector<T> values;
    for (size_t h = 0; h < layer_.heads.size(); ++h) values.push_back(value(h));
    buffer.filled(values, stream_);
  }

  // Thresholds of the upper levels; thresholds or a number of keys below.
  void prune() {
    const SelectionRule& rule = rules_[0];
    const size_t n_stages = layer_.heads[0].n_stages();
    const bool by_threshold = rule.rule == Rule::threshold;
    if (by_threshold ? rule.thresholds.size() != n_stages
                     : (!rule.thresholds.empty() && rule.thresholds.size() + 1 < n_stages)) {
      fail("an index of {} stages needs as many thresholds, found {}", n_stages, rule.thresholds.size());
    }
    const auto upper = [&](size_t stage) { return rule.thresholds.empty() ? -kInfinity : rule.thresholds[stage]; };
    for (size_t i = 0; i < leaves(); ++i) plan_.levels[i].threshold = upper(i);
    while (plan_.first_level < leaves() && upper(plan_.first_level) == -kInfinity) ++plan_.first_level;

    plan_.dense = by_threshold && rule.thresholds.back() == -kInfinity;
    plan_.sketches = layer_.sketches.group_dim > 0 && upper(leaves()) > -kInfinity;
    CudaKeep& last = plan_.sketches ? plan_.keys : plan_.levels[leaves()];
    if (plan_.sketches) plan_.levels[leaves()].threshold = upper(leaves());
    if (by_threshold) {
      last.threshold = rule.thresholds.back();
      plan_.most_rows = layer_.n_clustered();
      return;
    }
    const int64_t top_k = std::min(rule.top_k, layer_.n_clustered());
    per_head<int32_t>(last.keys_of, [&](size_t) { return static_cast<int32_t>(top_k); });
    plan_.most_rows = std::max<int64_t>(top_k, layer_.levels.back().largest);
  }

  // What is left of a head's bytes after what it reads in any case (the centroids and value means that its rule lets it
  // expect), for sketches and keys; shared as lookup.cpp does.
  void spend() {
    const int64_t n_keys = layer_.n_clustered();
    const auto keep = [&](size_t h, size_t level) { return std::min(rules_[h].keep_keys[level], n_keys); };
    for (size_t level = 0; level < leaves(); ++level) {
      per_head<int32_t>(plan_.levels[level].keys_of, [&](size_t h) { return static_cast<int32_t>(keep(h, level)); });
      const bool prunes = keep(0, level) < n_keys;
      if (!prunes && plan_.first_level == level) ++plan_.first_level;
    }
    std::vector<double> left;
    for (size_t h = 0; h < layer_.heads.size(); ++h) {
      std::vector<double> upper_keep;
      for (size_t i = 0; i < leaves(); ++i) upper_keep.push_back(double(keep(h, i)) / double(n_keys));
      left.push_back(std::max(0.0, rules_[h].bytes - fixed_bytes(upper_keep, layer_.heads[h], rest_)));
    }
    const auto in_play = [&](size_t h) { return leaves() == 0 ? n_keys : keep(h, leaves() - 1); };
    const HeadView& head = layer_.heads[0];
    const int64_t key_bytes = kv_bytes(head);
    plan_.sketches = layer_.sketches.group_dim > 0;
    CudaKeep& of_leaves = plan_.levels[leaves()];
    if (!plan_.sketches) {
      per_head<int32_t>(of_leaves.keys_of, [&](size_t h) { return static_cast<int32_t>(left[h] / double(key_bytes)); });
    } else {
      const auto one = static_cast<double>(head.sketches.key_bytes());
      per_head<int32_t>(of_leaves.keys_of, [&](size_t h) {
        return static_cast<int32_t>(
            std::min(rules_[h].sketch_share * left[h] / one, kMaxSketched * static_cast<double>(in_play(h))));
      });
      per_head<int64_t>(plan_.bytes_of, [&](size_t h) { return static_cast<int64_t>(left[h]); });
    }
    const double most = *std::ranges::max_element(left) / double(key_bytes);
    plan_.most_rows = std::max<int64_t>(static_cast<int64_t>(most) + 1, layer_.levels.back().largest);
  }

  const CudaLayer& layer_;
  Rest rest_;
  const CudaStream& stream_;
  std::vector<SelectionRule> rules_;  // per head
  CudaPlan plan_;
};

}  // namespace

CudaPlan plan_layer(const CudaLayer& layer, int number, const Rules& rules, Rest rest, int64_t n_query_tokens,
                    const CudaStream& stream) {
  return Planner(layer, rest, stream).plan(number, rules, n_query_tokens);
}

}  // namespace squeeze
