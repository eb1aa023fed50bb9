// Tokenizers in the format of tokenizer.json: normalizer, pre-tokenizer, BPE, post-processor, decoder, added tokens.
#include <algorithm>
#include <unordered_set>

#include "lib/core/utf8.hpp"
#include "lib/model/added_tokens.hpp"
#include "lib/model/bpe.hpp"
#include "lib/model/json_node.hpp"
#include "lib/model/normalizer.hpp"
#include "lib/model/pretokenizer.hpp"
#include "lib/model/token_decoder.hpp"
#include "lib/model/token_template.hpp"
#include "lib/model/tokenizer_impl.hpp"

namespace squeeze {
namespace {

constexpr int kMaxNesting = 64;  // real files have about 8; readers of nested parts may recurse

// How deep arrays and objects are nested, whatever else is wrong with the text.
int nesting_of(std::string_view json) {
  int depth = 0, deepest = 0;
  bool in_string = false;
  for (size_t i = 0; i < json.size(); ++i) {
    const char c = json[i];
    if (c == '"') in_string = !in_string;
    if (in_string && c == '\\') ++i;
    if (in_string) continue;
    if (c == '{' || c == '[') deepest = std::max(deepest, ++depth);
    if (c == '}' || c == ']') --depth;
  }
  return deepest;
}

nlohmann::json parse_document(std::string_view text, const std::string& source) {
  if (nesting_of(text) > kMaxNesting) {
    fail("{}: expected at most {} levels of nested JSON, found more", source, kMaxNesting);
  }
  try {
    return nlohmann::json::parse(text);
  } catch (const nlohmann::json::exception& error) {
    fail("{}: expected a tokenizer in JSON, found something else ({})", source, error.what());
  }
}

AddedToken parse_added_token(const JsonNode& node) {
  AddedToken token;
  token.content = node.member("content").string();
  token.id = static_cast<int32_t>(node.member("id").integer(0, Vocabulary::kMaxId));
  token.single_word = node.boolean("single_word", false);
  token.lstrip = node.boolean("lstrip", false);
  token.rstrip = node.boolean("rstrip", false);
  token.special = node.boolean("special", false);
  token.normalized = node.boolean("normalized", !token.special);
  return token;
}

class JsonTokenizer : public Tokenizer::Impl {
 public:
  explicit JsonTokenizer(const JsonNode& root);

  std::vector<int32_t> encode(std::string_view text) const override;
  std::string decode(std::span<const int32_t> tokens, bool skip_special) const override;
  int32_t vocab_size() const override { return std::max(bpe_.vocabulary().size(), added_.size()); }
  std::optional<int32_t> token_id(std::string_view token) const override;
  bool is_special(int32_t token) const override { return special_.contains(token); }

 private:
  void read_added_tokens(const JsonNode& root);
  void check_added_id(const AddedToken& token, const JsonNode& node) const;
  void encode_normalized(std::string_view text, bool at_start, BpeEncoder& encoder, std::vector<int32_t>& ids) const;
  const std::string* token_of(int32_t id) const;

  Normalizer normalizer_;
  PreTokenizer pretokenizer_;
  Bpe bpe_;
  TokenDecoder decoder_;
  Vocabulary added_;
  std::unordered_set<int32_t> special_;
  AddedTokenFinder raw_tokens_;         // looked for before the text is normalized
  AddedTokenFinder normalized_tokens_;  // and after
};

JsonTokenizer::JsonTokenizer(const JsonNode& root) : bpe_(root.member("model")) {
  if (root.has("normalizer")) normalizer_ = Normalizer(root.member("normalizer"));
  if (root.has("pre_tokenizer")) pretokenizer_ = PreTokenizer(root.member("pre_tokenizer"));
  if (root.has("decoder")) decoder_ = TokenDecoder(root.member("decoder"));
  if (root.has("added_tokens")) read_added_tokens(root);
  if (!root.has("post_processor")) return;
  const JsonNode post_processor = root.member("post_processor");
  TokenTemplate around = parse_template(post_processor);
  for (const auto* ids : {&around.prefix, &around.suffix}) {
    for (const int32_t id : *ids) {
      if (!token_of(id)) fail("{}: the template adds token id {}, which does not exist", post_processor.where(), id);
    }
  }
  prefix = std::move(around.prefix);
  suffix = std::move(around.suffix);
}

void JsonTokenizer::read_added_tokens(const JsonNode& root) {
  std::vector<AddedToken> raw, normalized;
  for (const JsonNode& node : root.member("added_tokens").elements()) {
    AddedToken token = parse_added_token(node);
    if (token.content.empty()) continue;
    check_added_id(token, node);
    added_.add(token.content, token.id, node.where());
    if (token.special) special_.insert(token.id);
    if (token.normalized) token.content = normalizer_.apply(token.content);
    (token.normalized ? normalized : raw).push_back(std::move(token));
  }
  // Of two tokens that normalize to the same text, the special one is found, as in the tokenizers library.
  const auto is_special = [](const AddedToken& token) { return token.special; };
  std::stable_partition(normalized.begin(), normalized.end(), is_special);
  raw_tokens_ = AddedTokenFinder(std::move(raw));
  normalized_tokens_ = AddedTokenFinder(std::move(normalized));
}

// The tokenizers library ignores the ids of added tokens and counts on from the vocabulary: a file whose ids differ
// means different things to different readers.
void JsonTokenizer::check_added_id(const AddedToken& token, const JsonNode& node) const {
  const auto known = bpe_.vocabulary().id_of(token.content);
  const auto n_tokens = static_cast<int32_t>(bpe_.vocabulary().n_tokens());
  const int32_t expected = known ? *known : std::max(added_.size(), n_tokens);
  if (token.id != expected) {
    fail("{}: expected id {} for added token '{}', found {}", node.where(), expected, token.content, token.id);
  }
  if (!known && bpe_.vocabulary().token_of(token.id)) {
    fail("{}: added token '{}' has id {}, which is that of '{}'", node.where(), token.content, token.id,
         *bpe_.vocabulary().token_of(token.id));
  }
}

std::vector<int32_t> JsonTokenizer::encode(std::string_view text) const {
  std::vector<int32_t> ids;
  BpeEncoder encoder(bpe_);
  const auto add = [&ids](int32_t id) { ids.push_back(id); };
  raw_tokens_.split(
      text,
      [&](size_t begin, size_t end) {
        encode_normalized(normalizer_.apply(text.substr(begin, end - begin)), begin == 0, encoder, ids);
      },
      add);
  return ids;
}

void JsonTokenizer::encode_normalized(std::string_view text, bool at_start, BpeEncoder& encoder,
                                      std::vector<int32_t>& ids) const {
  const PreTokenizer::Sink encode_word = [&](std::string_view word, bool) { encoder.encode(word, ids); };
  normalized_tokens_.split(
      text,
      [&](size_t begin, size_t end) {
        pretokenizer_.split(text.substr(begin, end - begin), at_start && begin == 0, encode_word);
      },
      [&](int32_t id) { ids.push_back(id); });
}

std::string JsonTokenizer::decode(std::span<const int32_t> tokens, bool skip_special) const {
  std::vector<std::string> strings;
  strings.reserve(tokens.size());
  for (const int32_t id : tokens) {
    if (skip_special && is_special(id)) continue;
    if (const std::string* token = token_of(id)) strings.push_back(*token);
  }
  return decoder_.decode(std::move(strings));
}

const std::string* JsonTokenizer::token_of(int32_t id) const {
  const std::string* added = added_.token_of(id);
  return added ? added : bpe_.vocabulary().token_of(id);
}

std::optional<int32_t> JsonTokenizer::token_id(std::string_view token) const {
  const auto added = added_.id_of(token);
  return added ? added : bpe_.vocabulary().id_of(token);
}

}  // namespace

Tokenizer Tokenizer::from_json(std::string_view json, const std::string& source) {
  const nlohmann::json document = parse_document(json, source);
  const JsonNode root(document, source);
  if (root.string("version", "1.0") != "1.0") {
    fail("{}: expected version 1.0, found {}", source, root.member("version").string());
  }
  return Tokenizer(std::make_unique<JsonTokenizer>(root));
}

}  // namespace squeeze
