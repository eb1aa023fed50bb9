// Reads a BPE model from tokenizer.json.
#include <algorithm>

#include "lib/core/utf8.hpp"
#include "lib/model/bpe.hpp"
#include "lib/model/json_node.hpp"

namespace squeeze {
namespace {

void check_type(const JsonNode& model) {
  const bool looks_like_bpe = model.value().is_object() && model.has("merges");
  const std::string type = model.string("type", looks_like_bpe ? "BPE" : "none");
  if (type == "BPE") return;
  fail(
      "{}: unsupported model type '{}' (only BPE); if the model has a SentencePiece tokenizer.model, keep that "
      "and remove tokenizer.json",
      model.where(), type);
}

// The two tokens of a merge: "a b", or ["a", "b"].
std::pair<std::string, std::string> parse_merge(const nlohmann::json& merge, const JsonNode& list, size_t index) {
  if (merge.is_string()) {
    const auto& text = merge.get_ref<const std::string&>();
    const size_t space = text.find(' ');
    if (space != text.npos && text.find(' ', space + 1) == text.npos) {
      return {text.substr(0, space), text.substr(space + 1)};
    }
  } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
    return {merge[0].get<std::string>(), merge[1].get<std::string>()};
  }
  const std::string found = merge.is_string() ? merge.get<std::string>() : merge.type_name();
  fail("{}[{}]: expected \"left right\" or [\"left\", \"right\"], found {}", list.where(), index, found);
}

}  // namespace

Bpe::Bpe(const JsonNode& model) : source_(model.where()) {
  check_type(model);
  read_options(model);
  read_vocabulary(model);
  read_merges(model);
}

void Bpe::read_options(const JsonNode& model) {
  for (const char* option : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const std::string value = model.string(option, "");
    if (!value.empty()) fail("{}: unsupported option {} = '{}'", model.where(), option, value);
  }
  if (model.has("dropout") && model.member("dropout").value() != 0) {
    fail("{}: unsupported option dropout: the same text would not always give the same tokens", model.where());
  }
  fuse_unk_ = model.boolean("fuse_unk", false);
  byte_fallback_ = model.boolean("byte_fallback", false);
  ignore_merges_ = model.boolean("ignore_merges", false);
  if (model.has("unk_token")) unk_token_ = model.member("unk_token").string();
}

void Bpe::read_vocabulary(const JsonNode& model) {
  const JsonNode vocab = model.member("vocab");
  if (!vocab.value().is_object()) fail("{}: expected an object, found {}", vocab.where(), vocab.value().type_name());
  low_characters_.fill(-1);
  byte_tokens_.fill(-1);
  for (const auto& [token, value] : vocab.value().items()) {
    const auto id = static_cast<int32_t>(
        JsonNode(value, vocab.source(), fmt::format("model.vocab['{}']", token)).integer(0, Vocabulary::kMaxId));
    vocabulary_.add(token, id, vocab.where());
    if (token.empty() || utf8_length(token[0]) != token.size()) continue;
    size_t offset = 0;
    const char32_t character = next_code_point(token, offset);
    if (character < low_characters_.size()) {
      low_characters_[character] = id;
    } else {
      characters_[character] = id;
    }
  }
  for (size_t byte = 0; byte_fallback_ && byte < 256; ++byte) {
    byte_tokens_[byte] = vocabulary_.id_of(fmt::format("<0x{:02X}>", byte)).value_or(-1);
  }
  if (unk_token_) unk_id_ = vocabulary_.id_of(*unk_token_).value_or(-1);
}

void Bpe::read_merges(const JsonNode& model) {
  const JsonNode list = model.member("merges");
  if (!list.value().is_array()) fail("{}: expected an array, found {}", list.where(), list.value().type_name());
  const auto id_of = [&](const std::string& token, size_t index) {
    const auto id = vocabulary_.id_of(token);
    if (!id) fail("{}[{}]: token '{}' is not in the vocabulary", list.where(), index, token);
    return *id;
  };
  ranks_ = PairTable<int32_t>(list.value().size());
  std::vector<std::pair<int32_t, int32_t>> pairs;
  for (size_t i = 0; i < list.value().size(); ++i) {
    const auto& entry = list.value()[i];
    if (entry.is_string() && entry.get_ref<const std::string&>().starts_with("#version")) continue;
    const auto [left, right] = parse_merge(entry, list, i);
    pairs.emplace_back(id_of(left, i), id_of(right, i));
    ranks_.set(pairs.back().first, pairs.back().second, static_cast<int32_t>(results_.size()));
    results_.push_back(id_of(left + right, i));
  }
  add_crossings(pairs);
}

int32_t Bpe::character_id(char32_t character) const {
  if (character < low_characters_.size()) return low_characters_[character];
  const auto found = characters_.find(character);
  return found == characters_.end() ? -1 : found->second;
}

void Bpe::add_crossings(const std::vector<std::pair<int32_t, int32_t>>& merges) {
  crossings_ = PairTable<char>(merges.size());
  const auto is_symbol = [&](int32_t id) {
    return id == unk_id_ ||
           (byte_fallback_ && std::find(byte_tokens_.begin(), byte_tokens_.end(), id) != byte_tokens_.end());
  };
  for (const auto& [left, right] : merges) {
    const std::string& before = *vocabulary_.token_of(left);
    const std::string& after = *vocabulary_.token_of(right);
    if (before.empty() || after.empty()) continue;  // no symbol is empty, so this merge never happens
    any_may_cross_ = any_may_cross_ || is_symbol(left) || is_symbol(right);
    size_t last = before.size() - 1;
    while ((static_cast<unsigned char>(before[last]) & 0xC0) == 0x80) --last;
    size_t first = 0;
    const int32_t last_id = character_id(next_code_point(before, last));
    const int32_t first_id = character_id(next_code_point(after, first));
    // A token that ends in a character that is no token itself cannot be built from characters.
    if (last_id >= 0 && first_id >= 0) crossings_.set(last_id, first_id, 1);
  }
}

}  // namespace squeeze
