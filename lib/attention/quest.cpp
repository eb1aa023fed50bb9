// Page bounds, and the pages with the largest.
#include "lib/attention/quest.hpp"

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "lib/attention/key_choice.hpp"

namespace squeeze {
namespace {

// Each head's pages, made once; several threads may ask for one head at once.
class PageStore {
 public:
  const Pages& of(int layer, int kv_head, const HeadView& head) {
    Entry& entry = find(layer, kv_head);
    std::call_once(entry.once, [&] { entry.pages = make_pages(head); });
    return entry.pages;
  }

 private:
  struct Entry {
    std::once_flag once;
    Pages pages;
  };
  Entry& find(int layer, int kv_head) {
    const std::lock_guard lock(mutex_);
    return entries_[{layer, kv_head}];  // a map's elements never move
  }

  std::mutex mutex_;
  std::map<std::pair<int, int>, Entry> entries_;
};

// Bounds [n_pages, head_dim] in the type of the keys; scales: those of i8.
Tensor stored(const Tensor& bounds, DType dtype, std::vector<float>& scales) {
  if (dtype != DType::i8) return convert(bounds, dtype);
  QuantisedRows rounded = quantise(bounds);
  scales = std::move(rounded.scales);
  return std::move(rounded.rows);
}

// Queries with only the positive, and only the negative components: bound = positive·max + negative·min.
Tensor one_sign(TensorView queries, bool positive) {
  Tensor out(DType::f32, queries.shape());
  for (int64_t i = 0; i < queries.n_elements(); ++i) {
    out.f32()[i] = positive ? std::max(queries.f32()[i], 0.0f) : std::min(queries.f32()[i], 0.0f);
  }
  return out;
}

Selection best_pages(const Pages& pages, const std::vector<double>& weights, int64_t n_keys) {
  std::vector<int32_t> rows;
  const auto n_clustered = static_cast<int64_t>(pages.row_of_token.size());
  for (const int32_t page : best_first(weights)) {
    const int64_t begin = page * kPageTokens;
    const int64_t end = std::min(n_clustered, begin + kPageTokens);
    if (!rows.empty() && std::ssize(rows) + end - begin > n_keys) break;
    rows.insert(rows.end(), pages.row_of_token.begin() + begin, pages.row_of_token.begin() + end);
  }
  Selection selection = select_rows(std::move(rows));
  selection.index_bytes = pages.n_bytes();
  return selection;
}

}  // namespace

Pages make_pages(const HeadView& head) {
  const int64_t n_pages = (head.n_clustered() + kPageTokens - 1) / kPageTokens;
  const Shape shape{n_pages, head.keys.size(1)};
  Pages pages;
  pages.row_of_token.resize(static_cast<size_t>(head.n_clustered()));
  for (int32_t row = head.n_sinks; row < head.n_tokens() - head.n_window; ++row) {
    const int32_t token = head.token_of_row[static_cast<size_t>(row)];
    pages.row_of_token[static_cast<size_t>(token - head.n_sinks)] = row;
  }
  Tensor min(DType::f32, shape), max(DType::f32, shape);
  std::vector<float> key(static_cast<size_t>(shape[1]));
  for (int64_t i = 0; i < head.n_clustered(); ++i) {
    const int32_t row = pages.row_of_token[static_cast<size_t>(i)];
    head.key_rows().widen(row, row + 1, key.data());
    float* least = min.f32() + i / kPageTokens * shape[1];
    float* largest = max.f32() + i / kPageTokens * shape[1];
    for (size_t c = 0; c < key.size(); ++c) {
      const bool first = i % kPageTokens == 0;
      least[c] = first ? key[c] : std::min(least[c], key[c]);
      largest[c] = first ? key[c] : std::max(largest[c], key[c]);
    }
  }
  pages.min = stored(min, head.keys.dtype(), pages.min_scales);
  pages.max = stored(max, head.keys.dtype(), pages.max_scales);
  return pages;
}

void page_bounds(const Pages& pages, TensorView queries, float scale, float* out) {
  const int64_t n_pages = pages.n_pages();
  std::vector<float> negative(static_cast<size_t>(queries.size(0) * n_pages));
  pages.max_rows().scores(one_sign(queries, true), 0, n_pages, scale, out, n_pages);
  pages.min_rows().scores(one_sign(queries, false), 0, n_pages, scale, negative.data(), n_pages);
  for (size_t i = 0; i < negative.size(); ++i) out[i] += negative[i];
}

Policy quest_policy(double keys, float softmax_scale) {
  check_key_count("quest", keys);
  const auto store = std::make_shared<PageStore>();
  return [store, keys, softmax_scale](int layer, int kv_head, const HeadView& head, TensorView queries, int64_t,
                                      LookupScratch&) {
    if (head.n_clustered() == 0) return everything(head);
    const Pages& pages = store->of(layer, kv_head, head);
    const auto bounds = [&](int64_t begin, int64_t end, float* out) {
      page_bounds(pages, queries.slice(begin, end), softmax_scale, out);
    };
    const std::vector<double> weights = mean_softmax(queries.size(0), pages.n_pages(), bounds);
    return best_pages(pages, weights, key_count(keys, head.n_clustered()));
  };
}

}  // namespace squeeze
