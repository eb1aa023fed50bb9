// Reads post-processors.
#include "lib/model/token_template.hpp"

#include <string>

#include "lib/model/json_node.hpp"
#include "lib/model/vocabulary.hpp"

namespace squeeze {
namespace {

void append_special(const JsonNode& owner, const std::string& name, std::vector<int32_t>& ids) {
  for (const JsonNode& id : owner.member("special_tokens").member(name.c_str()).member("ids").elements()) {
    ids.push_back(static_cast<int32_t>(id.integer(0, Vocabulary::kMaxId)));
  }
}

TokenTemplate parse_single(const JsonNode& node) {
  TokenTemplate found;
  int n_texts = 0;
  for (const JsonNode& piece : node.member("single").elements()) {
    if (piece.has("Sequence")) {
      const std::string& id = piece.member("Sequence").member("id").string();
      if (id != "A") fail("{}: expected the text 'A', found '{}'", piece.where(), id);
      ++n_texts;
    } else {
      append_special(node, piece.member("SpecialToken").member("id").string(),
                     n_texts == 0 ? found.prefix : found.suffix);
    }
  }
  if (n_texts != 1) fail("{}.single: expected the text once, found it {} times", node.where(), n_texts);
  return found;
}

}  // namespace

TokenTemplate parse_template(const JsonNode& node) {
  const std::string& type = node.member("type").string();
  if (type == "TemplateProcessing") return parse_single(node);
  if (type == "ByteLevel") return {};
  if (type != "Sequence") fail("{}: unsupported post-processor '{}'", node.where(), type);
  TokenTemplate all;
  for (const JsonNode& step : node.member("processors").elements()) {
    const TokenTemplate one = parse_template(step);
    all.prefix.insert(all.prefix.begin(), one.prefix.begin(), one.prefix.end());
    all.suffix.insert(all.suffix.end(), one.suffix.begin(), one.suffix.end());
  }
  return all;
}

}  // namespace squeeze
