// A hash table from pairs of token ids to a small value: the inner loop of BPE looks up every adjacent pair.
#pragma once

#include <bit>
#include <cstdint>
#include <utility>
#include <vector>

namespace squeeze {

// Value is trivially copyable. Open addressing with linear probing, at most half full.
template <class Value>
class PairTable {
 public:
  explicit PairTable(size_t n_pairs = 0) : slots_(std::bit_ceil(2 * n_pairs + 2)) {}

  // At most n_pairs different pairs. A pair that is set twice keeps the later value.
  void set(int32_t left, int32_t right, Value value) {
    const uint64_t key = key_of(left, right);
    size_t i = first_slot(key);
    while (slots_[i].key != kEmpty && slots_[i].key != key) i = (i + 1) & (slots_.size() - 1);
    slots_[i] = {key, value};
  }

  // Null if the pair is not there.
  const Value* find(int32_t left, int32_t right) const {
    const uint64_t key = key_of(left, right);
    for (size_t i = first_slot(key);; i = (i + 1) & (slots_.size() - 1)) {
      if (slots_[i].key == key) return &slots_[i].value;
      if (slots_[i].key == kEmpty) return nullptr;
    }
  }

 private:
  static constexpr uint64_t kEmpty = ~uint64_t{0};  // ids are not negative, so no pair has this key
  struct Slot {
    uint64_t key = kEmpty;
    Value value{};
  };

  static uint64_t key_of(int32_t left, int32_t right) {
    return (uint64_t{static_cast<uint32_t>(left)} << 32) | static_cast<uint32_t>(right);
  }
  size_t first_slot(uint64_t key) const {
    key *= 0x9E3779B97F4A7C15u;  // Fibonacci hashing: the high bits depend on all of the key
    return (key >> 32) & (slots_.size() - 1);
  }

  std::vector<Slot> slots_;
};

}  // namespace squeeze
