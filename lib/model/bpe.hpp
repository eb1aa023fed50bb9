// Byte-pair encoding: the "model" of tokenizer.json.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "lib/model/pair_table.hpp"
#include "lib/model/vocabulary.hpp"

namespace squeeze {

class JsonNode;

class Bpe {
 public:
  // Throws on other model types and on unsupported options, naming them, and on merges of tokens that do not exist.
  explicit Bpe(const JsonNode& model);

  const Vocabulary& vocabulary() const { return vocabulary_; }

 private:
  friend class BpeEncoder;

  void read_options(const JsonNode& model);
  void read_vocabulary(const JsonNode& model);
  void read_merges(const JsonNode& model);
  void add_crossings(const std::vector<std::pair<int32_t, int32_t>>& merges);
  int32_t character_id(char32_t character) const;  // -1: not in the vocabulary

  Vocabulary vocabulary_;
  std::string source_;
  std::optional<std::string> unk_token_;
  int32_t unk_id_ = -1;
  bool fuse_unk_ = false;
  bool byte_fallback_ = false;
  bool ignore_merges_ = false;
  PairTable<int32_t> ranks_;      // of a pair's merge: its place in the list, lower ones go first
  std::vector<int32_t> results_;  // by rank: the id of the joined token
  // Pairs of symbols that some merge joins across: between any other two, a word can be cut without changing it.
  PairTable<char> crossings_;
  bool any_may_cross_ = false;                        // a merge joins byte or unknown tokens: never cut
  std::array<int32_t, 0x180> low_characters_{};       // ids of tokens of one character
  std::unordered_map<char32_t, int32_t> characters_;  // the others
  std::array<int32_t, 256> byte_tokens_{};            // ids of <0x00> to <0xFF>; -1: absent
};

// One run over a text: remembers the stretches that it has seen. Not shared between threads.
class BpeEncoder {
 public:
  explicit BpeEncoder(const Bpe& bpe) : bpe_(bpe) {}

  // Appends the ids of a word of valid UTF-8. Time n log n at worst.
  void encode(std::string_view word, std::vector<int32_t>& ids);

 private:
  using Candidate = uint64_t;  // rank, and position of the left symbol in the lower 32 bits

  struct Symbol {
    int32_t id;  // -1: swallowed by the one before
    int32_t previous, next;
  };

  void read_symbols(std::string_view word);
  bool read_fallback_bytes(std::string_view character);
  int32_t unk_id() const;
  void encode_stretch(size_t begin, size_t end, std::vector<int32_t>& ids);
  void merge_stretch(size_t begin, size_t end, std::vector<int32_t>& ids);
  void push_candidate(int32_t left, int32_t right);
  void merge(Candidate best);

  const Bpe& bpe_;
  std::vector<int32_t> base_;  // the word as ids of characters, byte tokens and unknown tokens
  std::vector<Symbol> symbols_;
  std::vector<Candidate> queue_;                                 // a heap, smallest first
  std::unordered_map<std::string, std::vector<int32_t>> cache_;  // by the bytes of the stretch of base_
};

}  // namespace squeeze
