// UTF-8 validation and replacement, against the table of well-formed sequences.
#include <doctest/doctest.h>

#include <string>

#include "lib/core/error.hpp"
#include "lib/core/utf8.hpp"

using namespace squeeze;

TEST_SUITE("utf8") {
  TEST_CASE("every code point is written and read back, and is valid") {
    for (char32_t c = 0; c <= 0x10FFFF; ++c) {
      if (c >= 0xD800 && c <= 0xDFFF) continue;
      std::string text;
      append_utf8(text, c);
      size_t offset = 0;
      const bool same = next_code_point(text, offset) == c && offset == text.size();
      if (!same || first_invalid_utf8(text)) FAIL("U+" << static_cast<uint32_t>(c));
    }
  }

  TEST_CASE("the first invalid byte is found, wherever it is") {
    for (const std::string bad :
         {"\x80", "\xBF", "\xC0\x80", "\xC1\xBF", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xF0\x8F\xBF\xBF",
          "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF", "\xC3", "\xE2\x82", "\xF0\x9F\x91"}) {
      for (size_t before = 0; before < 20; ++before) {
        for (const std::string after : {"", "x", "plain ascii behind it"}) {
          const auto found = first_invalid_utf8(std::string(before, 'a') + bad + after);
          REQUIRE(found.has_value());
          CHECK(*found == before);
        }
      }
    }
    CHECK_FALSE(first_invalid_utf8(""));
    CHECK_FALSE(first_invalid_utf8("\xC3\xA9 \xE2\x82\xAC \xF0\x9F\x91\x8D plain ascii"));
  }

  TEST_CASE("a maximal invalid part becomes one replacement character") {
    // The examples of Unicode 15, section 3.9 (tables 3-8 to 3-11).
    CHECK(to_valid_utf8("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41") ==
          "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\x41");
    CHECK(to_valid_utf8("\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41") ==
          "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\x41");
    CHECK(to_valid_utf8("\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42") ==
          "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\x41\uFFFD\uFFFD\x42");
    CHECK(to_valid_utf8("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41") == "\uFFFD\uFFFD\uFFFD\uFFFD\x41");
    CHECK(to_valid_utf8("\xC3\xA9") == "\xC3\xA9");
  }

  TEST_CASE("the error says where") {
    CHECK_THROWS_WITH_AS(check_utf8("abc\xFF", "notes.txt"),
                         "notes.txt: expected UTF-8 text, found an invalid byte 0xff at offset 3; convert it to UTF-8",
                         Error);
    check_utf8("abc", "notes.txt");
  }
}
