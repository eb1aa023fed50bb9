// The options of Metaspace, which marks spaces by a visible character: read by the pre-tokenizer and by the decoder.
#pragma once

#include <string>

#include "lib/core/utf8.hpp"
#include "lib/model/json_node.hpp"

namespace squeeze {

enum class PrependScheme { always, first, never };  // where a text that does not begin with a space gets a mark

struct Metaspace {
  std::string replacement;
  PrependScheme prepend = PrependScheme::always;
  bool split = true;
};

// Older files say add_prefix_space (true: always, false: never) instead of prepend_scheme.
inline Metaspace parse_metaspace(const JsonNode& node) {
  Metaspace metaspace;
  append_utf8(metaspace.replacement, node.member("replacement").character());
  metaspace.split = node.boolean("split", true);
  const bool old_prefix = node.boolean("add_prefix_space", true);
  const std::string scheme = node.string("prepend_scheme", old_prefix ? "always" : "never");
  if (scheme != "always" && scheme != "first" && scheme != "never") {
    fail("{}: expected a prepend_scheme always, first or never, found '{}'", node.where(), scheme);
  }
  metaspace.prepend = scheme == "always"  ? PrependScheme::always
                      : scheme == "first" ? PrependScheme::first
                                          : PrependScheme::never;
  return metaspace;
}

}  // namespace squeeze
