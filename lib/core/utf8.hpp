// UTF-8 validation.
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

namespace squeeze {

// The offset of the first byte that does not belong to a valid sequence (Unicode 15, table 3-7: no overlong forms, no
// surrogates, nothing above U+10FFFF); nothing if all is valid.
std::optional<size_t> first_invalid_utf8(std::string_view text);

}  // namespace squeeze
