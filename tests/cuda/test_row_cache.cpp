// cache_rows against the same clock in plain C++, call after call.
#include "kernels/cuda/row_cache.hpp"

#include <algorithm>
#include <numeric>

#include "tests/cuda/cases.hpp"

namespace squeeze::cuda_tests {
namespace {

using cuda::DeviceArray;

struct Setting {
  int n_kv_heads = 2, n_requests = 1, n_tokens = 300, n_slots = 40, row_bytes = 64;
  std::vector<int> n_rows = {20};  // per work, repeated
  int spread = 1;                  // rows of the next call are up to so far from those of the last
  int n_calls = 12;
  bool lists_rows = true;

  int n_works() const { return n_kv_heads * n_requests; }
};

// One KV head's cache, slot by slot.
struct Clock {
  std::vector<int32_t> slot_of, row_of, used;
  int32_t calls = 0, hand = 0, n_passed = 0;

  Clock(int n_tokens, int n_slots)
      : slot_of(size_t(n_tokens), -1), row_of(size_t(n_slots), -1), used(size_t(n_slots), 0) {}

  void begin() {
    ++calls;
    n_passed = 0;
  }
  void keep(const std::vector<int32_t>& rows) {
    for (const int32_t row : rows) {
      if (slot_of[size_t(row)] >= 0) used[size_t(slot_of[size_t(row)])] = 2 * calls + 1;
    }
  }
  // Returns whether the row was copied; false: it stays where it is.
  bool take(int32_t row) {
    const auto n_slots = int32_t(row_of.size());
    while (n_passed < 2 * n_slots) {
      ++n_passed;
      const auto slot = size_t(hand);
      hand = (hand + 1) % n_slots;
      if (used[slot] / 2 == calls) continue;
      if (used[slot] % 2 != 0) {
        --used[slot];
        continue;
      }
      if (row_of[slot] >= 0) slot_of[size_t(row_of[slot])] = -1;
      row_of[slot] = row;
      slot_of[size_t(row)] = int32_t(slot);
      used[slot] = 2 * calls;
      return true;
    }
    return false;
  }
};

class Calls {
 public:
  Calls(const Setting& setting, uint64_t seed) : s_(setting), random_(seed) {
    for (int h = 0; h < s_.n_kv_heads; ++h) expected_.emplace_back(s_.n_tokens, s_.n_slots);
    centres_.assign(size_t(s_.n_works()), 0);
    for (int& centre : centres_) centre = random_.below(s_.n_tokens);
  }

  // Returns the state of all heads after the last call, and checks it after each.
  std::vector<int32_t> run() {
    const size_t heads = size_t(s_.n_kv_heads), n_all = heads * size_t(s_.n_tokens),
                 n_slots = heads * size_t(s_.n_slots);
    const auto bytes_of = [&](size_t n) {
      std::vector<uint8_t> bytes(n * size_t(s_.row_bytes));
      for (uint8_t& b : bytes) b = uint8_t(random_.below(256));
      return bytes;
    };
    const std::vector<uint8_t> keys = bytes_of(n_all), values = bytes_of(n_all);
    const DeviceArray<uint8_t> device_keys(keys), device_values(values), cached_keys(n_slots * size_t(s_.row_bytes)),
        cached_values(n_slots * size_t(s_.row_bytes));
    const DeviceArray<int32_t> slot_of(n_all), row_of(n_slots), used(n_slots), clock(2 * heads);
    for (const DeviceArray<int32_t>* empty : {&slot_of, &row_of}) {
      cuda::fill_device(empty->data(), 0xff, empty->size() * sizeof(int32_t), nullptr);
    }
    const DeviceArray<char> workspace(cuda::row_cache_workspace_bytes(s_.n_kv_heads, s_.n_slots));
    std::vector<int32_t> state;
    for (int call = 0; call < s_.n_calls; ++call) {
      // Every third call asks for the rows of the one before.
      if (call % 3 != 2) make_lists();
      const DeviceArray<int32_t> rows(lists_), n_rows(counts_),
          n_copied(std::vector<int32_t>(counts_.size(), kUnwritten)),
          n_in_place(std::vector<int32_t>(counts_.size(), kUnwritten));
      cuda::cache_rows({.rows = s_.lists_rows ? rows.data() : nullptr,
                        .rows_stride = s_.n_tokens,
                        .n_rows = n_rows.data(),
                        .n_works = s_.n_works(),
                        .n_kv_heads = s_.n_kv_heads,
                        .keys = device_keys.data(),
                        .values = device_values.data(),
                        .n_tokens = s_.n_tokens,
                        .row_bytes = s_.row_bytes,
                        .cached_keys = cached_keys.data(),
                        .cached_values = cached_values.data(),
                        .n_slots = s_.n_slots,
                        .slot_of = slot_of.data(),
                        .row_of = row_of.data(),
                        .used = used.data(),
                        .clock = clock.data(),
                        .n_copied = n_copied.data(),
                        .n_in_place = n_in_place.data(),
                        .workspace = workspace.data()},
                       nullptr);
      expect_call(n_copied.host(), n_in_place.host());
      state.clear();
      for (const DeviceArray<int32_t>* part : {&slot_of, &row_of, &used, &clock}) {
        const std::vector<int32_t> host = part->host();
        state.insert(state.end(), host.begin(), host.end());
      }
      expect(state == expected_state(), "the state after call " + std::to_string(call));
      expect_copies(keys, cached_keys.host(), "keys");
      expect_copies(values, cached_values.host(), "values");
    }
    return state;
  }

 private:
  // Rows around a centre per work, which moves.
  void make_lists() {
    lists_.assign(size_t(s_.n_works()) * size_t(s_.n_tokens), -12345);
    counts_.clear();
    for (int w = 0; w < s_.n_works(); ++w) {
      const int n = s_.n_rows[size_t(w) % s_.n_rows.size()], width = std::min(s_.n_tokens, 2 * n);
      int& centre = centres_[size_t(w)];
      centre = (centre + random_.below(2 * s_.spread + 1) + s_.n_tokens - s_.spread) % s_.n_tokens;
      std::vector<int32_t> near(static_cast<size_t>(width));
      std::iota(near.begin(), near.end(), 0);
      for (int32_t& row : near) row = s_.lists_rows ? (row + centre) % s_.n_tokens : row;
      if (s_.lists_rows) std::shuffle(near.begin(), near.end(), std::mt19937_64(uint64_t(random_.below(1 << 20))));
      std::sort(near.begin(), near.begin() + n);
      std::copy_n(near.begin(), n, lists_.begin() + std::ptrdiff_t(w) * s_.n_tokens);
      counts_.push_back(n);
    }
  }

  std::vector<int32_t> rows_of(int work) const {
    const auto first = lists_.begin() + std::ptrdiff_t(work) * s_.n_tokens;
    return {first, first + counts_[size_t(work)]};
  }

  void expect_call(const std::vector<int32_t>& n_copied, const std::vector<int32_t>& n_in_place) {
    for (Clock& head : expected_) head.begin();
    for (int w = 0; w < s_.n_works(); ++w) expected_[size_t(w % s_.n_kv_heads)].keep(rows_of(w));
    for (int w = 0; w < s_.n_works(); ++w) {
      Clock& head = expected_[size_t(w % s_.n_kv_heads)];
      int copied = 0, in_place = 0;
      for (const int32_t row : rows_of(w)) {
        if (head.slot_of[size_t(row)] >= 0) continue;
        head.take(row) ? ++copied : ++in_place;
      }
      expect(n_copied[size_t(w)] == copied && n_in_place[size_t(w)] == in_place,
             "work " + std::to_string(w) + ": " + std::to_string(n_copied[size_t(w)]) + " rows copied and " +
                 std::to_string(n_in_place[size_t(w)]) + " in place, expected " + std::to_string(copied) + " and " +
                 std::to_string(in_place));
    }
  }

  std::vector<int32_t> expected_state() const {
    std::vector<int32_t> state;
    for (const auto part : {&Clock::slot_of, &Clock::row_of, &Clock::used}) {
      for (const Clock& head : expected_) state.insert(state.end(), (head.*part).begin(), (head.*part).end());
    }
    for (const Clock& head : expected_) state.insert(state.end(), {head.calls, head.hand});
    return state;
  }

  void expect_copies(const std::vector<uint8_t>& rows, const std::vector<uint8_t>& cached, const char* what) const {
    const auto size = std::ptrdiff_t(s_.row_bytes);
    for (int h = 0; h < s_.n_kv_heads; ++h) {
      for (int slot = 0; slot < s_.n_slots; ++slot) {
        const int32_t row = expected_[size_t(h)].row_of[size_t(slot)];
        if (row < 0) continue;
        const auto copy = cached.begin() + (std::ptrdiff_t(h) * s_.n_slots + slot) * size;
        expect(std::equal(copy, copy + size, rows.begin() + (std::ptrdiff_t(h) * s_.n_tokens + row) * size),
               std::string(what) + " of slot " + std::to_string(slot));
      }
    }
  }

  Setting s_;
  Random random_;
  std::vector<Clock> expected_;
  std::vector<int> centres_;
  std::vector<int32_t> lists_, counts_;
};

void check_setting(const Setting& setting) {
  const std::vector<int32_t> state = Calls(setting, 1).run();
  expect(Calls(setting, 1).run() == state, "the same calls leave another state");
}

void check_refusals() {
  for (const auto& [slots, bytes] : {std::pair{0, 64}, {4, 0}, {4, 24}}) {
    try {
      cuda::RowCacheArgs args = {};
      args.n_works = args.n_kv_heads = 1;
      args.row_bytes = bytes;
      args.n_slots = slots;
      cuda::cache_rows(args, nullptr);
    } catch (const std::invalid_argument&) {
      continue;
    }
    expect(false, "sizes that are not supported");
  }
}

}  // namespace

std::vector<Case> row_cache_cases() {
  return {
      {"row_cache: rows that move slowly", [] { check_setting({}); }},
      {"row_cache: room for all", [] { check_setting({.n_slots = 300, .spread = 60}); }},
      {"row_cache: far jumps, little room", [] { check_setting({.n_slots = 22, .spread = 150}); }},
      {"row_cache: fewer slots than rows", [] { check_setting({.n_slots = 7, .spread = 4}); }},
      {"row_cache: one slot", [] { check_setting({.n_slots = 1, .n_rows = {3}}); }},
      {"row_cache: requests that share rows",
       [] {
         check_setting({.n_kv_heads = 3, .n_requests = 4, .n_tokens = 60, .n_rows = {12, 0, 30, 7}, .spread = 3});
       }},
      {"row_cache: requests that do not fit together",
       [] {
         check_setting({.n_requests = 4, .n_slots = 32, .n_rows = {15, 30}, .spread = 9});
       }},
      {"row_cache: more rows than threads",
       [] {
         check_setting({.n_kv_heads = 1,
                        .n_tokens = 4000,
                        .n_slots = 1800,
                        .row_bytes = 16,
                        .n_rows = {1500},
                        .spread = 400,
                        .n_calls = 6});
       }},
      {"row_cache: all rows, of which some find room",
       [] { check_setting({.n_slots = 70, .row_bytes = 512, .n_rows = {300}, .n_calls = 4, .lists_rows = false}); }},
      {"row_cache: nothing to read", [] { check_setting({.n_rows = {0}}); }},
      {"row_cache: refusals", check_refusals},
  };
}

}  // namespace squeeze::cuda_tests
