// Translation of regular expressions from Oniguruma's dialect to PCRE2's.
#pragma once

#include <string>
#include <string_view>

namespace squeeze {

// The pattern for PCRE2 with UTF, UCP and MULTILINE that matches what Oniguruma (Ruby syntax, UTF-8) matches for
// `pattern`. Throws, naming the construct, where there is none. `source` names the place in errors.
std::string pcre2_pattern(std::string_view pattern, const std::string& source);

}  // namespace squeeze
