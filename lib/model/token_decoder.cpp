// Decoder kinds: ByteLevel, Metaspace, Replace, ByteFallback, Fuse, Strip, and Sequence of them.
#include "lib/model/token_decoder.hpp"

#include <algorithm>
#include <charconv>

#include "lib/core/utf8.hpp"
#include "lib/model/byte_alphabet.hpp"
#include "lib/model/json_node.hpp"
#include "lib/model/metaspace.hpp"
#include "lib/model/token_pattern.hpp"

namespace squeeze {
namespace {

using Step = std::function<void(std::vector<std::string>&)>;

std::string joined(const std::vector<std::string>& tokens, std::string_view separator) {
  std::string text;
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (i > 0) text += separator;
    text += tokens[i];
  }
  return text;
}

// A token with a character outside the alphabet (an added token) stands for itself.
std::string bytes_of(const std::string& token) {
  std::string bytes;
  for (size_t i = 0; i < token.size();) {
    const auto byte = alphabet_byte(next_code_point(token, i));
    if (!byte) return token;
    bytes.push_back(*byte);
  }
  return bytes;
}

Step make_byte_level(const JsonNode&) {
  return [](std::vector<std::string>& tokens) {
    std::string bytes;
    for (const std::string& token : tokens) bytes += bytes_of(token);
    tokens = {to_valid_utf8(bytes)};
  };
}

Step make_metaspace(const JsonNode& node) {
  const Metaspace metaspace = parse_metaspace(node);
  return [mark = Regex::literal(metaspace.replacement, node.where()),
          prepends = metaspace.prepend != PrependScheme::never](std::vector<std::string>& tokens) {
    for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = mark.replace(tokens[i], i == 0 && prepends ? "" : " ");
  };
}

Step make_replace(const JsonNode& node) {
  return [pattern = parse_pattern(node), content = node.member("content").string()](std::vector<std::string>& tokens) {
    for (std::string& token : tokens) token = pattern.replace(token, content);
  };
}

Step make_byte_fallback(const JsonNode&) { return join_fallback_bytes; }

Step make_fuse(const JsonNode&) {
  return [](std::vector<std::string>& tokens) { tokens = {joined(tokens, "")}; };
}

Step make_strip(const JsonNode& node) {
  std::string content;
  append_utf8(content, node.member("content").character());
  const int64_t start = node.member("start").integer(0, INT32_MAX), stop = node.member("stop").integer(0, INT32_MAX);
  return [content, start, stop](std::vector<std::string>& tokens) {
    for (std::string& token : tokens) {
      std::string_view rest = token;
      for (int64_t i = 0; i < start && rest.starts_with(content); ++i) rest.remove_prefix(content.size());
      for (int64_t i = 0; i < stop && rest.ends_with(content); ++i) rest.remove_suffix(content.size());
      token = std::string(rest);
    }
  };
}

struct Kind {
  const char* name;
  Step (*make)(const JsonNode&);
};

constexpr Kind kKinds[] = {
    {"ByteLevel", make_byte_level},       {"Metaspace", make_metaspace}, {"Replace", make_replace},
    {"ByteFallback", make_byte_fallback}, {"Fuse", make_fuse},           {"Strip", make_strip},
};

}  // namespace

int fallback_byte(const std::string& token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
  int byte = -1;
  const auto [end, error] = std::from_chars(token.data() + 3, token.data() + 5, byte, 16);
  return error == std::errc() && end == token.data() + 5 && byte >= 0 ? byte : -1;
}

void join_fallback_bytes(std::vector<std::string>& tokens) {
  std::vector<std::string> out;
  std::string bytes;
  const auto flush = [&] {
    if (!first_invalid_utf8(bytes)) return out.push_back(std::exchange(bytes, {}));
    std::string replaced;
    for (size_t i = 0; i < bytes.size(); ++i) append_utf8(replaced, 0xFFFD);
    out.push_back(replaced);
    bytes.clear();
  };
  for (std::string& token : tokens) {
    const int byte = fallback_byte(token);
    if (byte >= 0) {
      bytes.push_back(static_cast<char>(byte));
    } else {
      if (!bytes.empty()) flush();
      out.push_back(std::move(token));
    }
  }
  if (!bytes.empty()) flush();
  tokens = std::move(out);
}

TokenDecoder::TokenDecoder(const JsonNode& node) : has_decoder_(true) { add(node); }

void TokenDecoder::add(const JsonNode& node) {
  const std::string& type = node.member("type").string();
  if (type == "Sequence") {
    for (const JsonNode& step : node.member("decoders").elements()) add(step);
    return;
  }
  for (const Kind& kind : kKinds) {
    if (type == kind.name) return steps_.push_back(kind.make(node));
  }
  fail("{}: unsupported decoder '{}'", node.where(), type);
}

std::string TokenDecoder::decode(std::vector<std::string> tokens) const {
  for (const auto& step : steps_) step(tokens);
  return joined(tokens, has_decoder_ ? "" : " ");
}

}  // namespace squeeze
