// Encodes words by BPE: characters to symbols, then the merge of lowest rank first, leftmost first.
#include "lib/model/bpe.hpp"

#include <algorithm>
#include <functional>

#include "lib/core/error.hpp"
#include "lib/core/utf8.hpp"

namespace squeeze {
namespace {

constexpr size_t kMaxCachedSymbols = 64;       // longer stretches hardly come back
constexpr size_t kMaxCacheEntries = 1u << 18;  // bounds the memory of a run

}  // namespace

void BpeEncoder::encode(std::string_view word, std::vector<int32_t>& ids) {
  if (bpe_.ignore_merges_) {
    if (const auto id = bpe_.vocabulary_.id_of(word)) return ids.push_back(*id);
  }
  read_symbols(word);
  size_t begin = 0;
  for (size_t i = 1; i < base_.size(); ++i) {
    if (bpe_.any_may_cross_ || bpe_.crossings_.find(base_[i - 1], base_[i])) continue;
    encode_stretch(begin, i, ids);
    begin = i;
  }
  encode_stretch(begin, base_.size(), ids);
}

// A pending unknown token is written before the next known character, but after byte tokens: so does the reference.
void BpeEncoder::read_symbols(std::string_view word) {
  base_.clear();
  bool unk_pending = false;
  for (size_t i = 0; i < word.size();) {
    const size_t begin = i;
    const int32_t id = bpe_.character_id(next_code_point(word, i));
    if (id >= 0) {
      if (unk_pending) base_.push_back(bpe_.unk_id_);
      unk_pending = false;
      base_.push_back(id);
    } else if (!read_fallback_bytes(word.substr(begin, i - begin)) && bpe_.unk_token_) {
      if (unk_pending && !bpe_.fuse_unk_) base_.push_back(unk_id());
      unk_pending = unk_id() >= 0;
    }
  }
  if (unk_pending) base_.push_back(bpe_.unk_id_);
  if (base_.size() > INT32_MAX) fail("{}: a word of {} symbols is too long", bpe_.source_, base_.size());
}

bool BpeEncoder::read_fallback_bytes(std::string_view character) {
  const auto token_of = [&](char byte) { return bpe_.byte_tokens_[static_cast<unsigned char>(byte)]; };
  if (std::any_of(character.begin(), character.end(), [&](char byte) { return token_of(byte) < 0; })) return false;
  for (const char byte : character) base_.push_back(token_of(byte));
  return true;
}

int32_t BpeEncoder::unk_id() const {
  if (bpe_.unk_id_ < 0) fail("{}: the unk_token '{}' is not in the vocabulary", bpe_.source_, *bpe_.unk_token_);
  return bpe_.unk_id_;
}

void BpeEncoder::encode_stretch(size_t begin, size_t end, std::vector<int32_t>& ids) {
  if (end - begin <= 1) {
    if (begin < end) ids.push_back(base_[begin]);
    return;
  }
  if (end - begin > kMaxCachedSymbols) return merge_stretch(begin, end, ids);
  const std::string key(reinterpret_cast<const char*>(base_.data() + begin), (end - begin) * sizeof(int32_t));
  const auto cached = cache_.find(key);
  if (cached != cache_.end()) {
    ids.insert(ids.end(), cached->second.begin(), cached->second.end());
    return;
  }
  const size_t n_before = ids.size();
  merge_stretch(begin, end, ids);
  if (cache_.size() >= kMaxCacheEntries) cache_.clear();
  cache_.emplace(key, std::vector<int32_t>(ids.begin() + static_cast<std::ptrdiff_t>(n_before), ids.end()));
}

void BpeEncoder::merge_stretch(size_t begin, size_t end, std::vector<int32_t>& ids) {
  const auto n = static_cast<int32_t>(end - begin);
  symbols_.clear();
  queue_.clear();
  for (int32_t i = 0; i < n; ++i) {
    symbols_.push_back({base_[begin + static_cast<size_t>(i)], i - 1, i + 1 < n ? i + 1 : -1});
    if (i > 0) push_candidate(i - 1, i);
  }
  while (!queue_.empty()) {
    std::pop_heap(queue_.begin(), queue_.end(), std::greater());
    const Candidate best = queue_.back();
    queue_.pop_back();
    merge(best);
  }
  for (const Symbol& symbol : symbols_) {
    if (symbol.id >= 0) ids.push_back(symbol.id);
  }
}

void BpeEncoder::push_candidate(int32_t left, int32_t right) {
  const int32_t left_id = symbols_[static_cast<size_t>(left)].id, right_id = symbols_[static_cast<size_t>(right)].id;
  const int32_t* rank = bpe_.ranks_.find(left_id, right_id);
  if (!rank) return;
  queue_.push_back((static_cast<Candidate>(*rank) << 32) | static_cast<uint32_t>(left));
  std::push_heap(queue_.begin(), queue_.end(), std::greater());
}

void BpeEncoder::merge(Candidate best) {
  const auto position = static_cast<int32_t>(best & 0xFFFFFFFF);
  const int32_t result = bpe_.results_[best >> 32];
  Symbol& left = symbols_[static_cast<size_t>(position)];
  if (left.id < 0 || left.next < 0) return;
  Symbol& right = symbols_[static_cast<size_t>(left.next)];
  // The symbols may have changed since the candidate was found. What counts is the result, not the rank.
  const int32_t* rank = bpe_.ranks_.find(left.id, right.id);
  if (!rank || bpe_.results_[static_cast<size_t>(*rank)] != result) return;
  left.id = result;
  left.next = right.next;
  right.id = -1;
  if (left.next >= 0) symbols_[static_cast<size_t>(left.next)].previous = position;
  if (left.previous >= 0) push_candidate(left.previous, position);
  if (left.next >= 0) push_candidate(position, left.next);
}

}  // namespace squeeze
