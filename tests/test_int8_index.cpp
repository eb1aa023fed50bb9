// Tests of what version 3 of the index format brought, keys and values in 8 bits: round trips, resuming, hostile files.
#include <cmath>

#include "tests/empty_index.hpp"
#include "tests/made_sketched_index.hpp"

using namespace squeeze;

namespace {

const std::string kGoldenPath = SQUEEZE_SOURCE_DIR "/tests/golden/files/index_v3_i8.sqz.h5";
constexpr MadeIndexKind kInt8 = {.quantise_kv = true};

EmptyIndex int8_index() {
  EmptyIndex file;
  file.kv_type = "i8";
  file.stored_kv = h5::Type::i8;
  return file;
}

}  // namespace

TEST_SUITE("int8_index") {
  TEST_CASE("what is written is read: every type, with and without sketches and 8-bit centroids") {
    const TemporaryFolder folder;
    for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
      for (const bool quantise : {false, true}) {
        const MadeIndexKind kind{dtype, quantise ? 4 : 0, quantise, true};
        write_made_index(folder / "i", kind, {.force = true});
        const KvIndex index(folder / "i");
        CHECK(is_made_index(index, kind));
        CHECK(index.kv_bytes() == 2 * 2 * 12 * 2 * (3 + 4));  // layers, heads, tokens, K and V
        CHECK(index.view().tail_dtype() == dtype);
      }
    }
  }

  TEST_CASE("an index of version 3 is read for ever") {
    CHECK(is_made_index(KvIndex(kGoldenPath), {.group = 0, .quantise_kv = true, .sign_bits = 1}));
  }

  TEST_CASE("an index that is begun in another type is not resumed") {
    const TemporaryFolder folder;
    { KvIndexWriter writer(folder / "i", made_context(), kInt8.dtype, made_options(kInt8), {}, kMadePositions); }
    const auto why = [&](const MadeIndexKind& other) {
      return error_of([&] {
        KvIndexWriter(folder / "i", made_context(), other.dtype, made_options(other), {.resume = true}, kMadePositions);
      });
    };
    CHECK(why(kInt8).empty());
    CHECK(contains(why({}), "another type of keys and values"));
    CHECK(contains(why({.dtype = DType::f16, .quantise_kv = true}), "another element type"));
  }

  TEST_CASE("a layer whose rows or scales do not fit is not written") {
    const TemporaryFolder folder;
    KvIndexWriter writer(folder / "i", made_context(), kInt8.dtype, made_options(kInt8), {}, kMadePositions);
    const auto refused = [&](const IndexLayer& layer) {
      CHECK(contains(error_of([&] { writer.write_layer(0, layer, {}, made_queries(kInt8, 0)); }),
                     "expected a layer of i8"));
    };
    refused(made_index_layer(MadeIndexKind{}, 0));
    for (const auto member : {&IndexLayer::key_scales, &IndexLayer::value_scales}) {
      IndexLayer layer = made_index_layer(kInt8, 0);
      (layer.*member).pop_back();
      refused(layer);
    }
    CHECK(writer.n_layers_done() == 0);
  }

  TEST_CASE("attributes and datasets that make no sense are refused, by name") {
    const TemporaryFolder folder;
    const auto why = [&](auto&& change) {
      EmptyIndex file = int8_index();
      change(file);
      return file.error(folder);
    };
    CHECK(contains(int8_index().error(folder), "upper_keep"));  // all is in its place, but for the data
    CHECK(contains(why([](EmptyIndex& f) { f.kv_type = "i4"; }), "kv_type i8 or keys, found i4"));
    CHECK(contains(why([](EmptyIndex& f) { f.kv_type = "keys"; }), "/layers/00/keys"));
    CHECK(contains(why([](EmptyIndex& f) { f.left_out = "kv_type"; }), "/layers/00/keys"));
    CHECK(contains(why([](EmptyIndex& f) { f.stored_kv = h5::Type::bf16; }), "/layers/00/keys"));
    CHECK(contains(why([](EmptyIndex& f) { f.float_type = "i8"; }), "float_type f32, f16 or bf16, found i8"));
    CHECK(contains(why([](EmptyIndex& f) { f.left_out = "float_type"; }), "attribute float_type is missing"));
    CHECK(contains(why([](EmptyIndex& f) { f.n_scales = 11; }), "/layers/00/key_scales"));
    for (const std::string name : {"/layers/00/key_scales", "/layers/01/key_scales", "/layers/01/value_scales"}) {
      CHECK(contains(why([&](EmptyIndex& f) { f.left_out = name; }), name));
    }
  }

  TEST_CASE("scales that are no scales are refused when the file is opened") {
    const TemporaryFolder folder;
    const std::string path = folder / "i";
    for (const float bad : {NAN, -0.5f, INFINITY, -INFINITY}) {
      for (const std::string what : {"key", "value"}) {
        write_made_index(path, kInt8, {.force = true});
        poke(path, "/layers/01/" + what + "_scales", h5::Type::f32, {2, 12}, 12, bad);
        const std::string why = error_of([&] { KvIndex index(path); });
        CHECK(contains(why, path + ": /layers/01: head 1: the scale of a " + what + " is"));
      }
    }
  }

  TEST_CASE("a file cut anywhere is refused") {
    const TemporaryFolder folder;
    const std::string bytes = read_bytes(kGoldenPath);
    for (size_t size = 0; size < bytes.size(); size += size < 2048 ? 97 : 2039) {
      write_bytes(folder / "cut", bytes.substr(0, size));
      CHECK(contains(error_of([&] { KvIndex(folder / "cut"); }), folder / "cut"));
    }
  }
}
