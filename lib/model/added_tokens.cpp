// A trie over the tokens' bytes, and the flags' rules for what an occurrence takes along.
#include "lib/model/added_tokens.hpp"

#include <algorithm>

#include "lib/core/utf8.hpp"
#include "lib/model/character_class.hpp"

namespace squeeze {
namespace {

bool starts_with_word(std::string_view text) {
  size_t offset = 0;
  return !text.empty() && is_word_character(next_code_point(text, offset));
}

bool ends_with_word(std::string_view text) {
  size_t last = text.size();
  while (last > 0 && (static_cast<unsigned char>(text[last - 1]) & 0xC0) == 0x80) --last;
  return last > 0 && starts_with_word(text.substr(last - 1));
}

}  // namespace

AddedTokenFinder::AddedTokenFinder(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)), nodes_(1) {
  for (size_t i = 0; i < tokens_.size(); ++i) {
    int32_t node = 0;
    for (const char c : tokens_[i].content) {
      const auto byte = static_cast<unsigned char>(c);
      int32_t next = child(node, byte);
      if (next < 0) {
        next = static_cast<int32_t>(nodes_.size());
        auto& children = nodes_[static_cast<size_t>(node)].children;
        children.insert(std::upper_bound(children.begin(), children.end(), std::pair(byte, next)), {byte, next});
        nodes_.emplace_back();
      }
      node = next;
    }
    int32_t& token = nodes_[static_cast<size_t>(node)].token;
    if (node != 0 && token < 0) token = static_cast<int32_t>(i);
  }
}

int32_t AddedTokenFinder::child(int32_t node, unsigned char byte) const {
  const auto& children = nodes_[static_cast<size_t>(node)].children;
  const auto found = std::lower_bound(children.begin(), children.end(), std::pair(byte, int32_t{0}));
  return found != children.end() && found->first == byte ? found->second : -1;
}

int32_t AddedTokenFinder::longest_at(std::string_view text, size_t offset) const {
  int32_t node = 0, longest = -1;
  for (; offset < text.size(); ++offset) {
    node = child(node, static_cast<unsigned char>(text[offset]));
    if (node < 0) break;
    if (nodes_[static_cast<size_t>(node)].token >= 0) longest = nodes_[static_cast<size_t>(node)].token;
  }
  return longest;
}

void AddedTokenFinder::split(std::string_view text, const std::function<void(size_t, size_t)>& stretch,
                             const std::function<void(int32_t)>& token) const {
  size_t done = 0;       // may move back behind a token that took white space along: the next one counts as well
  size_t white_end = 0;  // where the white space behind the last rstrip token ends
  for (size_t offset = 0; offset < text.size() && !empty();) {
    const int32_t index = longest_at(text, offset);
    if (index < 0) {
      ++offset;
      continue;
    }
    const AddedToken& found = tokens_[static_cast<size_t>(index)];
    size_t begin = offset, end = offset + found.content.size();
    offset = end;
    if (found.single_word && (ends_with_word(text.substr(0, begin)) || starts_with_word(text.substr(end)))) continue;
    if (found.lstrip) begin = done >= begin ? done : begin - white_space_suffix(text.substr(done, begin - done));
    if (found.rstrip)
      end = white_end = std::max(white_end, end + (end < white_end ? 0 : white_space_prefix(text.substr(end))));
    if (done < begin) stretch(done, begin);
    token(found.id);
    done = end;
  }
  if (done < text.size()) stretch(done, text.size());
}

}  // namespace squeeze
