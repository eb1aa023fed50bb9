// The piece of a text that each of its tokens stands for.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "lib/model/tokenizer.hpp"

namespace squeeze {

// One string per token; together they are the decoded text. The characters that several tokens make up together belong
// to the last of them, and the others are empty. Special tokens show their names.
std::vector<std::string> token_texts(const Tokenizer& tokenizer, std::span<const int32_t> tokens);

}  // namespace squeeze
