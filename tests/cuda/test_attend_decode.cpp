// attend_decode against attention in double precision.
#include <algorithm>
#include <numeric>

#include "kernels/cuda/attend_decode.hpp"
#include "tests/cuda/made_rows.hpp"

namespace squeeze::cuda_tests {
namespace {

using cuda::DeviceArray;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct Setting {
  DType dtype = DType::bf16;       // of keys and values
  DType float_type = DType::bf16;  // of the others if that is i8
  int group = 4, head_dim = 128, n_kv_heads = 2, n_requests = 1;
  int n_tokens = 100;
  bool lists_rows = true;         // else rows 0, 1, ...
  std::vector<int> n_rows = {};   // per work, repeated; rows are drawn at random
  std::vector<int> n_tail = {0};  // the same
  std::vector<int> n_rest = {0};
  int tokens = 1;   // of which a work's rows are; token t sees t more rows of the tail
  int n_tails = 0;  // that works share; 0: each has its own

  DType other_type() const { return dtype == DType::i8 ? float_type : dtype; }
  int heads() const { return group / tokens; }
  int tail_of(int work) const { return n_tails ? work % n_tails : work; }
  int n_works() const { return n_requests * n_kv_heads; }
};

// A made-up call, and its answer.
class Call {
 public:
  Call(const Setting& setting, uint64_t seed) : s_(setting), random_(seed) {
    const size_t dim = size_t(s_.head_dim), n_works = size_t(s_.n_works());
    queries_ = random_.normals(n_works * size_t(s_.group) * dim);
    const auto rows = [&](size_t n, DType dtype) { return Rows(random_, n, s_.head_dim, dtype); };
    for (Rows* made : {&keys_, &values_}) *made = rows(size_t(s_.n_kv_heads * s_.n_tokens), s_.dtype);
    for (Rows* made : {&tail_keys_, &tail_values_}) *made = rows(n_works * kTailCapacity, s_.other_type());
    value_means_ = rows(size_t(s_.n_kv_heads) * kClusters, s_.other_type());
    row_lists_ = lists(s_.n_rows, s_.n_tokens, n_rows_);
    rest_lists_ = lists(s_.n_rest, kClusters, n_rest_);
    for (size_t w = 0; w < n_works; ++w) n_tail_.push_back(s_.n_tail[w % s_.n_tail.size()]);
    rest_logits_ = random_.normals(n_works * size_t(s_.group) * kClusters, 2);
  }

  void run() {
    const DeviceArray<float> queries(queries_), rest_logits(rest_logits_), key_scales(keys_.scales),
        value_scales(values_.scales);
    const DeviceArray<uint8_t> keys(keys_.data), values(values_.data), tail_keys(tail_keys_.data),
        tail_values(tail_values_.data), value_means(value_means_.data);
    const DeviceArray<int32_t> rows(row_lists_), n_rows(n_rows_), n_tail(n_tail_), rest(rest_lists_), n_rest(n_rest_);
    const size_t n_heads = size_t(s_.n_works() * s_.group);
    const DeviceArray<float> out(std::vector<float>(n_heads * size_t(s_.head_dim), NAN));
    const DeviceArray<float> lse(std::vector<float>(n_heads, NAN));
    const DeviceArray<char> workspace(cuda::attend_decode_workspace_bytes(s_.n_works(), s_.group, s_.head_dim));
    const cuda::AttendDecodeArgs args{.queries = queries.data(),
                                      .n_works = s_.n_works(),
                                      .n_kv_heads = s_.n_kv_heads,
                                      .group = s_.group,
                                      .heads_per_token = s_.tokens > 1 ? s_.heads() : 0,
                                      .head_dim = s_.head_dim,
                                      .scale = scale(),
                                      .dtype = s_.dtype,
                                      .float_type = s_.float_type,
                                      .key_scales = key_scales.data(),
                                      .value_scales = value_scales.data(),
                                      .keys = keys.data(),
                                      .values = values.data(),
                                      .n_tokens = s_.n_tokens,
                                      .rows = s_.lists_rows ? rows.data() : nullptr,
                                      .rows_stride = s_.n_tokens,
                                      .n_rows = n_rows.data(),
                                      .tail_keys = tail_keys.data(),
                                      .tail_values = tail_values.data(),
                                      .tail_capacity = kTailCapacity,
                                      .n_tail = n_tail.data(),
                                      .n_tails = s_.n_tails,
                                      .value_means = value_means.data(),
                                      .n_clusters = kClusters,
                                      .rest = rest.data(),
                                      .rest_logits = rest_logits.data(),
                                      .rest_stride = kClusters,
                                      .n_rest = n_rest.data(),
                                      .out = out.data(),
                                      .lse = lse.data(),
                                      .workspace = workspace.data()};
    cuda::attend_decode(args, nullptr);
    check(out.host(), lse.host());
    const std::vector<float> first = out.host();
    cuda::fill_device(out.data(), 0xff, out.size() * sizeof(float), nullptr);
    cuda::attend_decode(args, nullptr);  // the workspace is fit for a second call, and the bits are the same
    expect(out.host() == first, "a second call gives other bits");
    if (s_.tokens > 1) check_tokens_alone(args, first);
    check_cached(args, out, first);
  }

 private:
  // Two of three rows have copies, and what they are copies of is lost: the same bits.
  void check_cached(cuda::AttendDecodeArgs args, const DeviceArray<float>& out, const std::vector<float>& expected) {
    const size_t heads = size_t(s_.n_kv_heads), n_tokens = size_t(s_.n_tokens), n_slots = n_tokens + 3;
    const size_t row_bytes = size_t(s_.head_dim) * size_of(s_.dtype);
    std::vector<int32_t> slot_of;
    std::vector<uint8_t> keys = keys_.data, values = values_.data, cached_keys(heads * n_slots * row_bytes, 0xff),
                         cached_values = cached_keys;
    for (size_t row = 0; row < heads * n_tokens; ++row) {
      const size_t head = row / n_tokens, slot = n_slots - 1 - row % n_tokens;
      const bool cached = random_.below(3) != 0;
      slot_of.push_back(cached ? int32_t(slot) : -1);
      if (!cached) continue;
      const auto move = [&](std::vector<uint8_t>& from, std::vector<uint8_t>& to) {
        const auto first = from.begin() + std::ptrdiff_t(row * row_bytes);
        std::copy_n(first, row_bytes, to.begin() + std::ptrdiff_t((head * n_slots + slot) * row_bytes));
        std::fill_n(first, row_bytes, uint8_t{0xff});
      };
      move(keys, cached_keys);
      move(values, cached_values);
    }
    const DeviceArray<int32_t> device_slot_of(slot_of);
    const DeviceArray<uint8_t> device_keys(keys), device_values(values), copied_keys(cached_keys),
        copied_values(cached_values);
    args.keys = device_keys.data();
    args.values = device_values.data();
    args.slot_of = device_slot_of.data();
    args.cached_keys = copied_keys.data();
    args.cached_values = copied_values.data();
    args.n_slots = int64_t(n_slots);
    cuda::fill_device(out.data(), 0xff, out.size() * sizeof(float), nullptr);
    cuda::attend_decode(args, nullptr);
    expect(out.host() == expected, "rows read from their copies give other bits");
  }

  static constexpr int kTailCapacity = 40, kClusters = 50;

  float scale() const { return 1 / std::sqrt(static_cast<float>(s_.head_dim)); }

  // Ascending random subsets of [0, n), each work's `n` apart.
  std::vector<int32_t> lists(const std::vector<int>& sizes, int n, std::vector<int32_t>& counts) {
    std::vector<int32_t> all;
    for (int w = 0; w < s_.n_works(); ++w) {
      const int size = sizes.empty() ? n : sizes[size_t(w) % sizes.size()];
      std::vector<int32_t> numbers(static_cast<size_t>(n));
      std::iota(numbers.begin(), numbers.end(), 0);
      if (s_.lists_rows) std::shuffle(numbers.begin(), numbers.end(), std::mt19937_64(uint64_t(w)));
      std::sort(numbers.begin(), numbers.begin() + size);
      std::fill(numbers.begin() + size, numbers.end(), -12345);  // nobody may read these
      all.insert(all.end(), numbers.begin(), numbers.end());
      counts.push_back(size);
    }
    return all;
  }

  struct Row {
    double logit;
    const Rows* values;
    size_t value;
  };

  // All that one query head attends to.
  std::vector<Row> attended(int work, int head) const {
    const size_t dim = size_t(s_.head_dim), kv = size_t(work % s_.n_kv_heads);
    const float* query = queries_.data() + size_t(work * s_.group + head) * dim;
    const auto logit = [&](const Rows& keys, size_t row) {
      double dot = 0;
      for (size_t c = 0; c < dim; ++c) dot += query_element(query[c]) * keys.at(row, c);
      return dot * double{scale()};
    };
    std::vector<Row> rows;
    for (int i = 0; i < n_rows_[size_t(work)]; ++i) {
      const size_t row = kv * size_t(s_.n_tokens) + size_t(row_lists_[size_t(work * s_.n_tokens + i)]);
      rows.push_back({logit(keys_, row), &values_, row});
    }
    for (int i = 0; i < n_tail_[size_t(work)] + head / s_.heads(); ++i) {
      const size_t row = size_t(s_.tail_of(work)) * kTailCapacity + size_t(i);
      rows.push_back({logit(tail_keys_, row), &tail_values_, row});
    }
    for (int i = 0; i < n_rest_[size_t(work)]; ++i) {
      const size_t cluster = kv * kClusters + size_t(rest_lists_[size_t(work * kClusters + i)]);
      rows.push_back({double{rest_logits_[size_t((work * s_.group + head) * kClusters + i)]}, &value_means_, cluster});
    }
    return rows;
  }

  // Each token of the works in a call of its own, over the same lists.
  void check_tokens_alone(cuda::AttendDecodeArgs args, const std::vector<float>& together) const {
    const size_t heads = size_t(s_.heads()), dim = size_t(s_.head_dim), n_works = size_t(s_.n_works());
    args.group = s_.heads();
    args.heads_per_token = 0;
    args.lse = nullptr;
    for (int token = 0; token < s_.tokens; ++token) {
      const auto of_token = [&](const std::vector<float>& all, size_t size) {
        std::vector<float> own;
        for (size_t w = 0; w < n_works; ++w) {
          const auto first = all.begin() + std::ptrdiff_t((w * size_t(s_.tokens) + size_t(token)) * heads * size);
          own.insert(own.end(), first, first + std::ptrdiff_t(heads * size));
        }
        return own;
      };
      std::vector<int32_t> n_tail = n_tail_;
      for (int32_t& n : n_tail) n += token;
      const DeviceArray<float> queries(of_token(queries_, dim)), rest_logits(of_token(rest_logits_, kClusters));
      const DeviceArray<int32_t> device_n_tail(n_tail);
      const DeviceArray<float> out(queries.size());
      const DeviceArray<char> workspace(cuda::attend_decode_workspace_bytes(s_.n_works(), args.group, s_.head_dim));
      args.queries = queries.data();
      args.rest_logits = rest_logits.data();
      args.n_tail = device_n_tail.data();
      args.out = out.data();
      args.workspace = workspace.data();
      cuda::attend_decode(args, nullptr);
      const std::vector<float> of_block = of_token(together, dim);
      const std::vector<double> expected(of_block.begin(), of_block.end());
      // Of more than 8 rows, only those of the block are rounded to the type of the keys: logits are off by a unit.
      expect_close("a token alone", out.host(), expected, s_.group <= 8 ? 1e-4 : 0.05);
    }
  }

  // Groups of more than 8 heads round their queries to the type of the keys.
  double query_element(float x) const {
    if (s_.group <= 8) return double{x};
    uint32_t bits = 0;
    store_element(&bits, s_.other_type(), 0, x);
    return double{load_element(&bits, s_.other_type(), 0)};
  }

  void check(const std::vector<float>& out, const std::vector<float>& lse) const {
    std::vector<double> expected, expected_lse;
    double largest_logit = 0;
    for (int work = 0; work < s_.n_works(); ++work) {
      for (int head = 0; head < s_.group; ++head) {
        double max = -kInfinity, sum = 0;
        const std::vector<Row> rows = attended(work, head);
        for (const Row& row : rows) max = std::max(max, row.logit);
        std::vector<double> acc(size_t(s_.head_dim), 0.0);
        for (const Row& row : rows) {
          largest_logit = std::max(largest_logit, std::abs(row.logit));
          sum += std::exp(row.logit - max);
          for (size_t c = 0; c < acc.size(); ++c) {
            acc[c] += std::exp(row.logit - max) * row.values->at(row.value, c);
          }
        }
        for (const double x : acc) expected.push_back(sum > 0 ? x / sum : 0);
        expected_lse.push_back(max + std::log(sum));
      }
    }
    expect_close("output", out, expected, limit(largest_logit) * 5);  // values reach 5 deviations
    for (size_t i = 0; i < lse.size(); ++i) {
      if (expected_lse[i] == -kInfinity) {
        expect(double{lse[i]} == -kInfinity, "log-sum-exp of nothing");
      } else {
        expect_close("log-sum-exp", {&lse[i], 1}, {&expected_lse[i], 1}, limit(largest_logit));
      }
    }
  }

  // Twice what rounding leaves of operands (16 bits and the next 16, or for more than 8 heads 16 of the weights alone),
  // and float32 sums.
  double limit(double largest_logit) const {
    const double unit = s_.other_type() == DType::bf16 ? 1.0 / 256 : 1.0 / 2048;
    const double sums = (double(s_.head_dim) + double(s_.n_tokens)) * 6e-8;
    const double operand = s_.group <= 8 ? std::max(unit * unit, 1e-6) : 0;
    return 2 * (operand * (1 + largest_logit) + sums) + (s_.group <= 8 ? 0 : unit);
  }

  Setting s_;
  Random random_;
  std::vector<float> queries_, rest_logits_;
  Rows keys_, values_, tail_keys_, tail_values_, value_means_;
  std::vector<int32_t> row_lists_, rest_lists_, n_rows_, n_tail_, n_rest_;
};

void check_setting(const Setting& setting) { Call(setting, 1).run(); }

// Keys and values in 8 bits, beside a tail and value means in 16.
void check_bytes(Setting setting) {
  setting.dtype = DType::i8;
  setting.n_rows = {45, 0, 100};
  setting.n_tail = {3, 33, 0};
  setting.n_rest = {9, 0, 40};
  for (const DType dtype : {DType::bf16, DType::f16}) {
    setting.float_type = dtype;
    check_setting(setting);
  }
}

}  // namespace

std::vector<Case> attend_decode_cases() {
  return {
      {"attend_decode: all rows", [] { check_setting({.n_tokens = 333, .lists_rows = false}); }},
      {"attend_decode: few units, most blocks idle", [] { check_setting({.n_kv_heads = 1, .n_rows = {17}}); }},
      {"attend_decode: lists of very different lengths",
       [] {
         check_setting({.n_kv_heads = 4, .n_requests = 2, .n_tokens = 300, .n_rows = {0, 300, 1, 16, 31, 0}});
       }},
      {"attend_decode: nothing at all", [] { check_setting({.n_rows = {0}}); }},
      {"attend_decode: a tail",
       [] {
         check_setting({.n_rows = {30, 0}, .n_tail = {1, 33, 16}});
       }},
      {"attend_decode: dropped clusters",
       [] {
         check_setting({.n_rows = {20, 0}, .n_tail = {3}, .n_rest = {50, 7}});
       }},
      {"attend_decode: blocks of two tokens, a tail they share",
       [] {
         check_setting({.n_requests = 3, .n_rows = {30, 0}, .n_tail = {0, 0, 2, 17, 33}, .tokens = 2, .n_tails = 2});
       }},
      {"attend_decode: blocks of four tokens, tails of their own, dropped clusters",
       [] {
         check_setting({.group = 8, .n_rows = {0, 40}, .n_tail = {0, 14}, .n_rest = {0, 9}, .tokens = 4});
       }},
      {"attend_decode: blocks of sixteen rows",
       [] {
         check_setting({.group = 16, .n_requests = 2, .n_rows = {25}, .n_tail = {13, 30}, .n_rest = {3}, .tokens = 4});
       }},
      {"attend_decode: blocks of five tokens of three heads, dim 64",
       [] {
         check_setting({.group = 15, .head_dim = 64, .n_rows = {50}, .n_tail = {0, 31}, .tokens = 5, .n_tails = 1});
       }},
      {"attend_decode: f16",
       [] { check_setting({.dtype = DType::f16, .n_rows = {70}, .n_tail = {5}, .n_rest = {9}}); }},
      {"attend_decode: one head a group", [] { check_setting({.group = 1, .n_rows = {50}}); }},
      {"attend_decode: seven heads a group", [] { check_setting({.group = 7, .n_rows = {50}}); }},
      {"attend_decode: eight heads a group", [] { check_setting({.group = 8, .n_rows = {50}}); }},
      {"attend_decode: nine heads a group", [] { check_setting({.group = 9, .n_rows = {50}, .n_rest = {9}}); }},
      {"attend_decode: sixteen heads a group, f16",
       [] { check_setting({.dtype = DType::f16, .group = 16, .n_rows = {50}, .n_tail = {4}}); }},
      {"attend_decode: bytes, all rows",
       [] { check_setting({.dtype = DType::i8, .n_tokens = 333, .lists_rows = false}); }},
      {"attend_decode: bytes", [] { check_bytes({.n_kv_heads = 3}); }},
      {"attend_decode: bytes, one head a group", [] { check_bytes({.group = 1}); }},
      {"attend_decode: bytes, eight heads a group, dim 64", [] { check_bytes({.group = 8, .head_dim = 64}); }},
      {"attend_decode: bytes, nine heads a group, dim 96", [] { check_bytes({.group = 9, .head_dim = 96}); }},
      {"attend_decode: bytes, sixteen heads a group", [] { check_bytes({.group = 16}); }},
      {"attend_decode: bytes, blocks of two tokens, dim 256",
       [] { check_bytes({.group = 14, .head_dim = 256, .n_kv_heads = 3, .tokens = 2, .n_tails = 3}); }},
      {"attend_decode: bytes, dim 256", [] { check_bytes({.group = 5, .head_dim = 256}); }},
      {"attend_decode: bytes, dim 96", [] { check_bytes({.group = 6, .head_dim = 96, .n_kv_heads = 3}); }},
      {"attend_decode: dim 64", [] { check_setting({.head_dim = 64, .n_rows = {90}, .n_rest = {20}}); }},
      {"attend_decode: dim 96", [] { check_setting({.head_dim = 96, .n_rows = {90}, .n_rest = {20}}); }},
      {"attend_decode: dim 256", [] { check_setting({.head_dim = 256, .n_rows = {90}, .n_rest = {20}}); }},
  };
}

}  // namespace squeeze::cuda_tests
