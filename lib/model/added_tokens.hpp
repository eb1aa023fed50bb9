// Tokens that are cut out of a text before the model sees it: special tokens and others added to a vocabulary.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace squeeze {

struct AddedToken {
  std::string content;
  int32_t id = 0;
  bool single_word = false;  // only where no word character touches it
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;       // and behind it
  bool normalized = false;   // looked for in the normalized text
  bool special = false;      // left out by decode(skip_special)
};

// Finds the leftmost, longest occurrences of a set of tokens.
class AddedTokenFinder {
 public:
  AddedTokenFinder() = default;
  // Of several tokens with the same content the first is found. Empty contents are left out.
  explicit AddedTokenFinder(std::vector<AddedToken> tokens);

  bool empty() const { return tokens_.empty(); }

  // Calls text(begin, end) for the (not empty) stretches between tokens and token(id) for each token, in order.
  // Time is the text's length times the longest content's.
  void split(std::string_view text, const std::function<void(size_t begin, size_t end)>& stretch,
             const std::function<void(int32_t id)>& token) const;

 private:
  // A node's children are consecutive edges, sorted by byte.
  struct Node {
    std::vector<std::pair<unsigned char, int32_t>> children;
    int32_t token = -1;  // index of the token that ends here
  };
  int32_t child(int32_t node, unsigned char byte) const;
  int32_t longest_at(std::string_view text, size_t offset) const;  // index of a token, or -1

  std::vector<AddedToken> tokens_;
  std::vector<Node> nodes_;
};

}  // namespace squeeze
