// Tests of the HDF5 reader and skeleton writer: types, shapes, strings, names, hostile declarations.
#include "formats/h5.hpp"

#include <cmath>

#include "formats/kv_context.hpp"
#include "tests/made_files.hpp"

using namespace squeeze;

namespace {

// A dump of one layer and one token whose attributes can be replaced one by one.
struct SmallDump {
  std::string format = "squeeze-kv-dump";
  int64_t version = 1, n_layers = 1, n_query_heads = 2, n_kv_heads = 1, head_dim = 4, n_tokens = 1, n_probes = 0;
  double softmax_scale = 0.5;
  std::string model_name = "m", rope = "{}";
  std::string left_out = "";

  void write(const std::string& path) const {
    h5::Skeleton file(path, 64);
    const auto set = [&](const char* name, const auto& value) {
      if (left_out != name) file.attribute(name, value);
    };
    set("format", std::string_view(format));
    set("version", version);
    set("model_name", std::string_view(model_name));
    set("model_fingerprint", std::string_view("f"));
    set("n_layers", n_layers);
    set("n_query_heads", n_query_heads);
    set("n_kv_heads", n_kv_heads);
    set("head_dim", head_dim);
    set("n_tokens", n_tokens);
    set("softmax_scale", softmax_scale);
    set("rope", std::string_view(rope));
    set("n_probes", n_probes);
    file.dataset("/tokens", std::vector<int32_t>{3});
    file.dataset("/query_positions", std::vector<int32_t>{0});
    if (left_out != "/layers/00/keys") file.dataset("/layers/00/keys", h5::Type::f16, {1, 1, 4});
    file.dataset("/layers/00/values", h5::Type::f16, {1, 1, 4});
    file.dataset("/layers/00/queries", h5::Type::f16, {2, 1, 4});
    file.close();
  }
};

std::string open_error(const TemporaryFolder& folder, const SmallDump& dump) {
  dump.write(folder / "d");
  return error_of([&] { KvDump(folder / "d"); });
}

}  // namespace

TEST_SUITE("h5") {
  TEST_CASE("attributes come back, and the wrong kind is refused") {
    const TemporaryFolder folder;
    const std::string path = folder / "a";
    {
      h5::Skeleton file(path, 64);
      file.attribute("minus", int64_t{-5});
      file.attribute("big", uint64_t{0xfedcba9876543210u});
      file.attribute("real", 0.1);
      file.attribute("text", "naïve");
      file.attribute("empty", "");
      file.close();
    }
    const h5::Reader file(path);
    CHECK(file.integer("minus") == -5);
    CHECK(file.unsigned_integer("big") == 0xfedcba9876543210u);
    CHECK(file.real("real") == 0.1);
    CHECK(file.real("minus") == -5);
    CHECK(file.text_attribute("text") == "naïve");
    CHECK(file.text_attribute("empty").empty());
    CHECK(file.has_attribute("real"));
    CHECK_FALSE(file.has_attribute("none"));
    CHECK(contains(error_of([&] { (void)file.integer("none"); }), "attribute none is missing"));
    CHECK(contains(error_of([&] { (void)file.integer("text"); }), "expected a number"));
    CHECK(contains(error_of([&] { (void)file.integer("real"); }), "expected a number"));
    CHECK(contains(error_of([&] { (void)file.text_attribute("real"); }), "expected one string"));
  }

  TEST_CASE("datasets come back; other shapes and types are refused") {
    const TemporaryFolder folder;
    const std::string path = folder / "a";
    {
      h5::Skeleton file(path, 64);
      file.dataset("/a/b/ints", std::vector<int32_t>{1, -2, 3});
      file.dataset("/a/doubles", std::vector<double>{0.25, 1e300});
      file.dataset("/none", std::vector<int32_t>{});
      file.text("/text", std::string("with a NUL \0 inside and at the end \0", 36));
      file.strings("/names", {"one", "", "drei ß"});
      file.dataset("/zeros", h5::Type::f32, {2, 3});
      file.close();
    }
    const h5::Reader file(path);
    CHECK(file.read_i32("/a/b/ints", {3}) == std::vector<int32_t>{1, -2, 3});
    CHECK(file.read_f64("/a/doubles", {2}) == std::vector<double>{0.25, 1e300});
    CHECK(file.read_i32("/none", {0}).empty());
    CHECK(file.read_text("/text") == std::string("with a NUL \0 inside and at the end \0", 36));
    CHECK(file.read_strings("/names") == std::vector<std::string>{"one", "", "drei ß"});
    CHECK(file.shape("/zeros") == Shape{2, 3});
    CHECK(equal_tensors(file.read_floats("/zeros", DType::f32, {2, 3}), Tensor::zeros(DType::f32, {2, 3})));
    CHECK(file.has("/a/b"));
    CHECK_FALSE(file.has("/a/c/d"));
    CHECK(contains(error_of([&] { (void)file.read_i32("/a/b/ints", {4}); }), "expected shape [4], found [3]"));
    CHECK(contains(error_of([&] { (void)file.read_i32("/zeros", {2, 3}); }), "expected integers"));
    CHECK(contains(error_of([&] { (void)file.read_f64("/a/b/ints", {3}); }), "expected floats"));
    CHECK(contains(error_of([&] { (void)file.read_i32("/gone", {3}); }), "dataset /gone is missing"));
    CHECK(contains(error_of([&] { (void)file.read_text("/names"); }), "expected one string"));
    CHECK(contains(error_of([&] { (void)file.extent("/zeros", h5::Type::bf16, {2, 3}); }), "expected contiguous"));
    CHECK(error_of([&] { (void)file.read_i32("/a", {1}); }) != "");
  }

  TEST_CASE("values converted by HDF5 agree with ours: the two 16-bit types mean what they say") {
    const TemporaryFolder folder;
    const float values[] = {0.0f, -0.0f, 1.0f, -2.5f, 0.15625f, 65504.0f, 6.1035156e-05f, INFINITY, -INFINITY};
    for (const DType dtype : {DType::f16, DType::bf16}) {
      const std::string path = folder / name_of(dtype);
      {
        h5::Skeleton file(path, 64);
        file.dataset("/x", h5::type_of(dtype), {9});
        file.close();
      }
      Tensor stored(dtype, {9});
      for (int64_t i = 0; i < 9; ++i) store_element(stored.data(), dtype, i, values[i]);
      const h5::Extent extent = h5::Reader(path).extent("/x", h5::type_of(dtype), {9});
      std::string bytes = read_bytes(path);
      std::memcpy(bytes.data() + extent.offset, stored.data(), stored.n_bytes());
      write_bytes(path, bytes);
      const h5::Reader file(path);
      CHECK(file.float_type("/x") == dtype);
      CHECK(equal_tensors(file.read_floats("/x", dtype, {9}), stored));
      CHECK(equal_tensors(file.read_floats("/x", DType::f32, {9}), convert(stored, DType::f32)));
    }
  }

  TEST_CASE("alignment is that of each dataset, the small ones too") {
    const TemporaryFolder folder;
    for (const uint64_t alignment : {uint64_t{64}, uint64_t{4096}}) {
      const std::string path = folder / std::to_string(alignment);
      {
        h5::Skeleton file(path, alignment);
        for (int i = 0; i < 20; ++i) file.dataset("/x" + std::to_string(i), h5::Type::bf16, {i + 1});
        file.close();
      }
      const h5::Reader file(path);
      for (int i = 0; i < 20; ++i) {
        CHECK(file.extent("/x" + std::to_string(i), h5::Type::bf16, {i + 1}).offset % alignment == 0);
      }
    }
  }

  TEST_CASE("every root attribute is needed and checked") {
    const TemporaryFolder folder;
    CHECK(open_error(folder, {}) == "");
    for (const char* name : {"version", "model_name", "model_fingerprint", "n_layers", "n_query_heads", "n_kv_heads",
                             "head_dim", "n_tokens", "softmax_scale", "rope"}) {
      CHECK(contains(open_error(folder, {.left_out = name}), std::string("attribute ") + name + " is missing"));
    }
    CHECK(contains(open_error(folder, {.left_out = "format"}), "found none"));
    CHECK(contains(open_error(folder, {.format = "png"}), "found png"));
    CHECK(contains(open_error(folder, {.version = 2}), "version 1 to 1, found 2"));
    CHECK(contains(open_error(folder, {.version = 0}), "found 0"));
    CHECK(contains(open_error(folder, {.left_out = "/layers/00/keys"}), "/layers/00/keys is missing"));
    CHECK(contains(open_error(folder, {.softmax_scale = NAN}), "softmax_scale"));
    CHECK(contains(open_error(folder, {.rope = "\xc3("}), "rope is not UTF-8"));
  }

  TEST_CASE("hostile sizes are errors, not allocations") {
    const TemporaryFolder folder;
    const int64_t huge = int64_t{1} << 62;
    for (const int64_t n : {int64_t{-1}, int64_t{0}, int64_t{2}, (int64_t{1} << 31) - 1, int64_t{1} << 32, huge}) {
      CHECK(open_error(folder, {.n_layers = n}) != "");
      CHECK(open_error(folder, {.n_kv_heads = n}) != "");
      CHECK(open_error(folder, {.head_dim = n}) != "");
      CHECK(open_error(folder, {.n_tokens = n}) != "");
      if (n != 2) CHECK(open_error(folder, {.n_query_heads = n}) != "");
      if (n != 0) CHECK(open_error(folder, {.n_probes = n}) != "");
    }
  }
}
