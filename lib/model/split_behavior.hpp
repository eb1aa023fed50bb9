// What becomes of the matches when a text is split by a pattern: the "behavior" of tokenizer.json.
#pragma once

#include <cstddef>
#include <functional>
#include <string_view>
#include <utility>

namespace squeeze {

enum class SplitBehavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };

// Takes alternating stretches of a text (matches, and what lies between them) and passes on the pieces.
class SplitPieces {
 public:
  using Sink = std::function<void(size_t begin, size_t end)>;

  SplitPieces(SplitBehavior behavior, const Sink& sink) : behavior_(behavior), sink_(sink) {}

  void add(size_t begin, size_t end, bool is_match) {
    if (behavior_ == SplitBehavior::removed && is_match) return;
    if (has_pending_ && joins(is_match)) {
      pending_end_ = end;
    } else {
      flush();
      pending_begin_ = begin;
      pending_end_ = end;
      has_pending_ = true;
    }
    last_is_match_ = is_match;
  }

  // Passes on the last piece; call once at the end.
  void flush() {
    if (has_pending_ && pending_begin_ < pending_end_) sink_(pending_begin_, pending_end_);
    has_pending_ = false;
  }

 private:
  bool joins(bool is_match) const {
    if (behavior_ == SplitBehavior::merged_with_previous) return is_match && !last_is_match_;
    if (behavior_ == SplitBehavior::merged_with_next) return !is_match && last_is_match_;
    return behavior_ == SplitBehavior::contiguous && is_match == last_is_match_;
  }

  SplitBehavior behavior_;
  const Sink& sink_;
  bool has_pending_ = false;
  bool last_is_match_ = false;
  size_t pending_begin_ = 0, pending_end_ = 0;
};

}  // namespace squeeze
