// Pre-tokenizer kinds: Split, ByteLevel, Digits, Metaspace, and Sequence of them.
#include "lib/model/pretokenizer.hpp"

#include "lib/core/utf8.hpp"
#include "lib/model/byte_alphabet.hpp"
#include "lib/model/character_class.hpp"
#include "lib/model/json_node.hpp"
#include "lib/model/metaspace.hpp"
#include "lib/model/split_behavior.hpp"
#include "lib/model/token_pattern.hpp"

namespace squeeze {
namespace {

using Sink = PreTokenizer::Sink;
using Step = PreTokenizer::Step;

constexpr const char* kGpt2Pattern = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

void split_by(const Regex& pattern, SplitBehavior behavior, bool invert, std::string_view text,
              const SplitPieces::Sink& sink) {
  SplitPieces pieces(behavior, sink);
  size_t done = 0;
  pattern.for_each_match(text, [&](size_t begin, size_t end) {
    if (done < begin) pieces.add(done, begin, invert);
    pieces.add(begin, end, !invert);
    done = end;
  });
  if (done < text.size()) pieces.add(done, text.size(), invert);
  pieces.flush();
}

SplitBehavior parse_behavior(const JsonNode& node) {
  const std::string& name = node.string();
  if (name == "Removed") return SplitBehavior::removed;
  if (name == "Isolated") return SplitBehavior::isolated;
  if (name == "MergedWithPrevious") return SplitBehavior::merged_with_previous;
  if (name == "MergedWithNext") return SplitBehavior::merged_with_next;
  if (name == "Contiguous") return SplitBehavior::contiguous;
  fail("{}: unsupported split behavior '{}'", node.where(), name);
}

Step make_split(const JsonNode& node) {
  return [pattern = parse_pattern(node), behavior = parse_behavior(node.member("behavior")),
          invert = node.boolean("invert", false)](std::string_view text, bool at_start, const Sink& sink) {
    split_by(pattern, behavior, invert, text,
             [&](size_t begin, size_t end) { sink(text.substr(begin, end - begin), at_start && begin == 0); });
  };
}

void to_alphabet(std::string_view bytes, std::string& text) {
  static constexpr auto kAlphabet = byte_alphabet();
  text.clear();
  for (const char byte : bytes) append_utf8(text, kAlphabet[static_cast<unsigned char>(byte)]);
}

Step make_byte_level(const JsonNode& node) {
  return
      [words = Regex(kGpt2Pattern, node.where()), use_regex = node.boolean("use_regex", true),
       prefix_space = node.boolean("add_prefix_space", true)](std::string_view text, bool at_start, const Sink& sink) {
        std::string prefixed;
        if (prefix_space && !text.starts_with(' ')) text = prefixed.append(" ").append(text);
        std::string written;
        const auto pass_on = [&](size_t begin, size_t end) {
          to_alphabet(text.substr(begin, end - begin), written);
          sink(written, at_start && begin == 0);
        };
        if (!use_regex) return pass_on(0, text.size());
        split_by(words, SplitBehavior::isolated, false, text, pass_on);
      };
}

Step make_digits(const JsonNode& node) {
  const bool individual = node.boolean("individual_digits", false);
  return [behavior = individual ? SplitBehavior::isolated : SplitBehavior::contiguous](
             std::string_view text, bool at_start, const Sink& sink) {
    const SplitPieces::Sink pass_on = [&](size_t begin, size_t end) {
      sink(text.substr(begin, end - begin), at_start && begin == 0);
    };
    SplitPieces pieces(behavior, pass_on);
    size_t done = 0;
    for (size_t next = 0; next < text.size();) {
      const size_t begin = next;
      if (!is_numeric(next_code_point(text, next))) continue;
      if (done < begin) pieces.add(done, begin, false);
      pieces.add(begin, next, true);
      done = next;
    }
    if (done < text.size()) pieces.add(done, text.size(), false);
    pieces.flush();
  };
}

Step make_metaspace(const JsonNode& node) {
  return [metaspace = parse_metaspace(node), space = Regex::literal(" ", node.where()),
          mark = Regex::literal(parse_metaspace(node).replacement, node.where())](std::string_view text, bool at_start,
                                                                                  const Sink& sink) {
    std::string marked = space.replace(text, metaspace.replacement);
    const bool wanted =
        metaspace.prepend == PrependScheme::always || (metaspace.prepend == PrependScheme::first && at_start);
    if (wanted && !marked.starts_with(metaspace.replacement)) marked.insert(0, metaspace.replacement);
    if (!metaspace.split) return sink(marked, at_start);
    split_by(mark, SplitBehavior::merged_with_next, false, marked, [&](size_t begin, size_t end) {
      sink(std::string_view(marked).substr(begin, end - begin), at_start && begin == 0);
    });
  };
}

struct Kind {
  const char* name;
  Step (*make)(const JsonNode&);
};

constexpr Kind kKinds[] = {
    {"Split", make_split}, {"ByteLevel", make_byte_level}, {"Digits", make_digits}, {"Metaspace", make_metaspace}};

}  // namespace

PreTokenizer::PreTokenizer(const JsonNode& node) { add(node); }

void PreTokenizer::add(const JsonNode& node) {
  const std::string& type = node.member("type").string();
  if (type == "Sequence") {
    for (const JsonNode& step : node.member("pretokenizers").elements()) add(step);
    return;
  }
  for (const Kind& kind : kKinds) {
    if (type == kind.name) return steps_.push_back(kind.make(node));
  }
  fail("{}: unsupported pre-tokenizer '{}'", node.where(), type);
}

void PreTokenizer::split(std::string_view text, bool at_start, const Sink& sink) const {
  if (text.empty()) return;
  // sinks[i] takes what step i receives; built from the end, so that each word goes through all steps at once.
  std::vector<Sink> sinks(steps_.size() + 1);
  sinks.back() = [&sink](std::string_view word, bool start) { sink(word, start); };
  for (size_t i = steps_.size(); i-- > 0;) {
    sinks[i] = [step = &steps_[i], next = &sinks[i + 1]](std::string_view word, bool start) {
      (*step)(word, start, *next);
    };
  }
  sinks.front()(text, at_start);
}

}  // namespace squeeze
