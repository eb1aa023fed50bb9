// Reading of safetensors files, whole and damaged.
#include "formats/safetensors.hpp"

#include <doctest/doctest.h>

#include "lib/core/error.hpp"
#include "temporary_folder.hpp"

namespace squeeze {
namespace {

std::string with_length(const std::string& header, uint64_t length) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(length >> (8 * i) & 0xff);
  return bytes + header;
}

// The header is padded with spaces to `alignment`, as the format's writers do.
std::string file_of(std::string header, const std::string& data, size_t alignment = 8) {
  while (header.size() % alignment != 0) header += ' ';
  return with_length(header, header.size()) + data;
}

std::string odd_header(std::string header) {
  if (header.size() % 2 == 0) header += ' ';
  return with_length(header, header.size());
}

std::string entry(const std::string& name, const std::string& dtype, const std::string& shape, uint64_t begin,
                  uint64_t end) {
  return fmt::format(R"("{}":{{"dtype":"{}","shape":{},"data_offsets":[{},{}]}})", name, dtype, shape, begin, end);
}

std::string floats(std::initializer_list<float> values) {
  return {reinterpret_cast<const char*>(values.begin()), values.size() * sizeof(float)};
}

std::string object(const std::string& entries) { return fmt::format("{{{}}}", entries); }

struct Case {
  const char* what;
  std::string bytes;
  const char* error;
};

}  // namespace

TEST_SUITE("safetensors") {
  TEST_CASE("names, types, shapes, data and metadata") {
    const TemporaryFolder folder;
    const std::string header = R"({"__metadata__":{"format":"pt"},)" + entry("a", "F32", "[2,1]", 0, 8) + "," +
                               entry("ids", "I64", "[2]", 8, 24) + "," + entry("none", "F16", "[0,3]", 24, 24) + "," +
                               entry("b", "BF16", "[]", 24, 26) + "," + entry("flags", "U8", "[1,1,1,1,1]", 26, 27) +
                               "}";
    const std::string ids("\x05\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff", 16);
    const Safetensors file(folder.write("x.safetensors", file_of(header, floats({1.5f, -2}) + ids + "\x80\x3f\x07")));
    CHECK(file.entries().size() == 5);
    CHECK(file.metadata().at("format") == "pt");
    CHECK(file.contains("a"));
    CHECK_FALSE(file.contains("__metadata__"));
    const TensorView a = file.tensor("a");
    REQUIRE(a.shape() == Shape{2, 1});
    CHECK((a.f32()[0] == 1.5f && a.f32()[1] == -2.0f));
    CHECK(load_element(file.tensor("b").data(), DType::bf16, 0) == 1.0f);
    CHECK(file.tensor("none").n_elements() == 0);
    CHECK(file.integers("ids") == std::vector<int32_t>{5, -1});
    CHECK_THROWS_WITH_AS(file.tensor("c"), doctest::Contains("'c' is missing"), Error);
    CHECK_THROWS_WITH_AS(file.tensor("ids"), doctest::Contains("I64"), Error);
    CHECK_THROWS_WITH_AS(file.tensor("flags"), doctest::Contains("dimensions"), Error);
    CHECK_THROWS_AS(file.integers("a"), Error);
  }

  TEST_CASE("an empty set of tensors") {
    const TemporaryFolder folder;
    CHECK(Safetensors(folder.write("x", file_of("{}", ""))).entries().empty());
  }

  TEST_CASE("a file cut anywhere is an error that names it") {
    const TemporaryFolder folder;
    const std::string whole = file_of(object(entry("a", "F32", "[3]", 0, 12)), floats({1, 2, 3}));
    for (size_t n = 0; n < whole.size(); ++n) {
      const std::string path = folder.write("cut.safetensors", whole.substr(0, n));
      CHECK_THROWS_WITH_AS(Safetensors{path}, doctest::Contains("cut.safetensors"), Error);
    }
    CHECK_NOTHROW(Safetensors(folder.write("cut.safetensors", whole)));
  }

  TEST_CASE("damaged headers") {
    const TemporaryFolder folder;
    const std::string a = entry("a", "F32", "[1]", 0, 4);
    const std::string data = floats({1, 2});
    const Case cases[] = {
        {"header longer than the file", with_length("{}", 3), "truncated"},
        {"header length near 2^64", with_length("{}", ~uint64_t{0}), "truncated"},
        {"header length near 2^63", with_length("{}", uint64_t{1} << 63), "truncated"},
        {"no JSON", file_of("hello", ""), "JSON"},
        {"an array", file_of("[]", ""), "object"},
        {"deep nesting", file_of(std::string(5000, '['), ""), "nested"},
        {"invalid UTF-8", file_of("{\"\xff\":1}", ""), "JSON"},
        {"a tensor that is no object", file_of(R"({"a":3})", ""), "'a'"},
        {"metadata of another type", file_of(R"({"__metadata__":{"n":3}})", ""), "metadata"},
        {"a repeated name", file_of(object(a + "," + a), data.substr(0, 4)), "twice"},
        {"no dtype", file_of(R"({"a":{"shape":[1],"data_offsets":[0,4]}})", data), "dtype"},
        {"no shape", file_of(R"({"a":{"dtype":"F32","data_offsets":[0,4]}})", data), "shape"},
        {"no offsets", file_of(R"({"a":{"dtype":"F32","shape":[1]}})", data), "data_offsets"},
        {"three offsets", file_of(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}})", data), "two"},
        {"negative offset", file_of(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}})", data), "offset"},
        {"fractional offset", file_of(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4.0]}})", data), "offset"},
        {"negative dimension", file_of(object(entry("a", "F32", "[-1]", 0, 4)), data), "dimension"},
        {"dimension beyond int64", file_of(object(entry("a", "F32", "[18446744073709551615]", 0, 4)), data), "large"},
        {"product that wraps to 4", file_of(object(entry("a", "F32", "[4611686018427387905]", 0, 4)), data), "large"},
        {"rank 17", file_of(object(entry("a", "U8", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]", 0, 1)), "x"), "17"},
        {"unknown type", file_of(object(entry("a", "F12", "[1]", 0, 4)), data), "F12"},
        {"shape larger than the span", file_of(object(entry("a", "F32", "[2]", 0, 4)), data), "8 bytes"},
        {"shape smaller than the span", file_of(object(entry("a", "F32", "[1]", 0, 8)), data), "4 bytes"},
        {"end before begin", file_of(object(entry("a", "F32", "[0]", 4, 0)), data), "outside"},
        {"end beyond the file", file_of(object(entry("a", "F32", "[3]", 0, 12)), data), "outside"},
        {"end near 2^64", file_of(object(entry("a", "F32", "[1]", ~uint64_t{3}, ~uint64_t{0})), data), "outside"},
        {"the same bytes twice", file_of(object(a + "," + entry("b", "F32", "[1]", 0, 4)), data.substr(0, 4)),
         "overlaps"},
        {"partial overlap",
         file_of(object(entry("a", "F16", "[2]", 0, 4) + "," + entry("b", "F16", "[3]", 2, 8)), data), "overlaps"},
        {"a gap", file_of(object(entry("a", "F32", "[1]", 4, 8)), data), "no tensor"},
        {"bytes after the last tensor", file_of(object(a), data), "no tensor"},
        {"a header of no bytes", with_length("", 0), "JSON"},
        {"an odd header length", odd_header(object(a)) + data.substr(0, 4), "aligned"},
    };
    for (const Case& c : cases) {
      CAPTURE(c.what);
      const std::string path = folder.write("bad.safetensors", c.bytes);
      CHECK_THROWS_WITH_AS(Safetensors{path}, doctest::Contains(c.error), Error);
      CHECK_THROWS_WITH_AS(Safetensors{path}, doctest::Contains("bad.safetensors"), Error);
    }
  }

  TEST_CASE("integers beyond 32 bits, a missing file and a folder") {
    const TemporaryFolder folder;
    const std::string big("\0\0\0\0\x01\0\0\0", 8);
    const Safetensors file(folder.write("x", file_of(object(entry("ids", "I64", "[1]", 0, 8)), big)));
    CHECK_THROWS_WITH_AS(file.integers("ids"), doctest::Contains("4294967296"), Error);
    CHECK_THROWS_WITH_AS(Safetensors(folder.path("absent")), doctest::Contains("absent"), Error);
    CHECK_THROWS_AS(Safetensors(folder.path()), Error);
  }
}

}  // namespace squeeze
