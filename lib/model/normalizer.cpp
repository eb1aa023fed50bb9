// Normalizer kinds: Prepend, Replace, Strip, Lowercase, the four normal forms, and Sequence of them.
#include "lib/model/normalizer.hpp"

#include "lib/model/character_class.hpp"
#include "lib/model/json_node.hpp"
#include "lib/model/token_pattern.hpp"

namespace squeeze {
namespace {

using Step = std::function<std::string(std::string)>;

Step make_prepend(const JsonNode& node) {
  return [prefix = node.member("prepend").string()](std::string text) {
    return text.empty() ? std::move(text) : prefix + text;
  };
}

Step make_replace(const JsonNode& node) {
  return [pattern = parse_pattern(node), content = node.member("content").string()](const std::string& text) {
    return pattern.replace(text, content);
  };
}

Step make_strip(const JsonNode& node) {
  return [left = node.member("strip_left").boolean(),
          right = node.member("strip_right").boolean()](const std::string& text) {
    std::string_view rest = text;
    if (left) rest.remove_prefix(white_space_prefix(rest));
    if (right) rest.remove_suffix(white_space_suffix(rest));
    return std::string(rest);
  };
}

template <NormalForm form>
Step make_normal_form(const JsonNode&) {
  return [](const std::string& text) { return normalize(text, form); };
}

Step make_lowercase(const JsonNode&) {
  return [](const std::string& text) { return to_lower(text); };
}

struct Kind {
  const char* name;
  Step (*make)(const JsonNode&);
};

constexpr Kind kKinds[] = {
    {"Prepend", make_prepend},
    {"Replace", make_replace},
    {"Strip", make_strip},
    {"Lowercase", make_lowercase},
    {"NFC", make_normal_form<NormalForm::nfc>},
    {"NFD", make_normal_form<NormalForm::nfd>},
    {"NFKC", make_normal_form<NormalForm::nfkc>},
    {"NFKD", make_normal_form<NormalForm::nfkd>},
};

}  // namespace

Normalizer::Normalizer(const JsonNode& node) { add(node); }

void Normalizer::add(const JsonNode& node) {
  const std::string& type = node.member("type").string();
  if (type == "Sequence") {
    for (const JsonNode& step : node.member("normalizers").elements()) add(step);
    return;
  }
  for (const Kind& kind : kKinds) {
    if (type == kind.name) return steps_.push_back(kind.make(node));
  }
  fail("{}: unsupported normalizer '{}'", node.where(), type);
}

std::string Normalizer::apply(std::string_view text) const {
  std::string normalized(text);
  for (const auto& step : steps_) normalized = step(std::move(normalized));
  return normalized;
}

}  // namespace squeeze
