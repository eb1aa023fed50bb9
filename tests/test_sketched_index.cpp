// Tests of what versions 2 and 4 of the index format brought: round trips, resuming, hostile attributes and numbers,
// and that older versions stay usable.
#include <cmath>

#include "kernels/kernels.hpp"
#include "lib/attention/context_attention.hpp"
#include "lib/attention/sketch_tables.hpp"
#include "tests/empty_index.hpp"
#include "tests/made_sketched_index.hpp"

using namespace squeeze;

namespace {

const std::string kGolden = SQUEEZE_SOURCE_DIR "/tests/golden/files/";

std::string golden_name(const MadeIndexKind& kind) {
  return kGolden + (kind.sign_bits > 0 ? "index_v2_" : "index_v4_") + name_of(kind.dtype) + ".sqz.h5";
}

constexpr MadeIndexKind kVersion2Kinds[] = {{DType::bf16, 0, true, false, 1}, {DType::f32, 0, false, false, 2}};

}  // namespace

TEST_SUITE("sketched_index") {
  TEST_CASE("what is written is read: every type, sketches of all sizes and none, 8-bit centroids, probes' positions") {
    const TemporaryFolder folder;
    for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
      for (const int group : {0, 2, 4, 8}) {
        for (const bool quantise : {false, true}) {
          const MadeIndexKind kind{dtype, group, quantise};
          write_made_index(folder / "i", kind, {.force = true});
          CHECK(is_made_index(KvIndex(folder / "i"), kind));
        }
      }
    }
  }

  TEST_CASE("indexes of version 2 and 4 are read for ever") {
    for (const MadeIndexKind& kind : kVersion2Kinds) CHECK(is_made_index(KvIndex(golden_name(kind)), kind));
    for (const MadeIndexKind& kind : kGoldenKinds) CHECK(is_made_index(KvIndex(golden_name(kind)), kind));
  }

  TEST_CASE("sketches of signs estimate as they did: exactly along the residual itself") {
    for (const MadeIndexKind& kind : kVersion2Kinds) {
      const KvIndex index(golden_name(kind));
      const HeadView head = index.view().layers[1][0];
      const Tensor keys = made_index_layer(kind.dtype, 1).keys.clone();  // as they came
      const std::vector<int64_t> leaf_of = leaf_of_key(head);
      for (int64_t key = 0; key < head.n_clustered(); ++key) {
        Tensor x = convert(keys[0].slice(1 + key, 2 + key), DType::f32);
        const std::vector<double> centroid =
            row_of(head.levels.back().centroid_rows(), leaf_of[static_cast<size_t>(key)]);
        double squares = 0;
        for (int64_t c = 0; c < 3; ++c) {
          x.f32()[c] -= static_cast<float>(centroid[static_cast<size_t>(c)]);
          squares += double{x.f32()[c]} * double{x.f32()[c]};
        }
        const SketchTables tables = sketch_tables(x, head.sketches, 1.0f);
        float found = 0;
        const RowRange row{static_cast<int32_t>(key), static_cast<int32_t>(key + 1)};
        kernels().sketch_scores({tables.entries.data(), 1, tables.scales.data(), head.sketches.codes,
                                 head.sketches.scales, 0, &row, 1, head.sketches.code_bytes(), &found, 1});
        // Three groups at most count, each rounded to a 62nd of the largest: squares are at least a third of it.
        CHECK(std::abs(double{found} - squares) <= 0.1 * squares + 1e-6);
      }
    }
  }

  TEST_CASE("an index of version 1 is of use to every policy") {
    for (const char* name : {"index_v1_bf16.sqz.h5", "index_v1_f32.sqz.h5"}) {
      const KvIndex index(kGolden + name);
      CHECK_FALSE(index.calibration().sketches);
      CHECK(index.calibration().gqa == GqaSelect::group_mean);
      CHECK(index.calibration().blocks[0].shares.factor(0.1, 1, 1) == 1);
      CHECK(index.query_positions().empty());
      const ContextView context = index.view();
      for (const PolicyEntry& entry : policies()) {
        CAPTURE(entry.name);
        const double value = entry.name == std::string("top-k") ? 4 : 0.97;  // twelve tokens: the clusters cost most
        for (const Rest rest : {Rest::drop, Rest::mean}) {
          const Policy policy = make_policy(entry.name, {.value = value,
                                                         .calibration = &index.calibration(),
                                                         .softmax_scale = context.model.softmax_scale,
                                                         .rest = rest});
          ContextAttention attention(context, policy, rest, 2);
          const Tensor queries = made_tensor(DType::f32, {3, 4, 3}, 1), keys = made_tensor(DType::f32, {3, 2, 3}, 2);
          const TensorView out = attention.attend({1, 12, queries, keys, keys});
          for (int64_t i = 0; i < out.n_elements(); ++i) CHECK(std::isfinite(out.f32()[i]));
          CHECK(attention.usage().budget() > 0);
        }
      }
    }
  }

  TEST_CASE("equal input gives equal bytes, also when a run was killed after a layer") {
    const TemporaryFolder folder;
    for (const MadeIndexKind& kind : kGoldenKinds) {
      write_made_index(folder / "whole", kind, {.force = true});
      for (int n_done = 0; n_done <= 2; ++n_done) {
        const std::string path = folder / (name_of(kind.dtype) + std::to_string(n_done));
        {
          KvIndexWriter writer(path, made_context(), kind.dtype, made_options(kind), {}, kMadePositions);
          for (int l = 0; l < n_done; ++l) {
            writer.write_layer(l, made_index_layer(kind, l), made_hidden(l), made_queries(kind, l));
          }
        }
        write_made_index(path, kind, {.resume = true});
        CHECK(read_bytes(path) == read_bytes(folder / "whole"));
      }
    }
  }

  TEST_CASE("resuming with other sketches, centroids or queries is refused, by name") {
    const TemporaryFolder folder;
    const MadeIndexKind kind;
    { KvIndexWriter writer(folder / "i", made_context(), kind.dtype, made_options(kind), {}, kMadePositions); }
    const auto why = [&](const MadeIndexKind& other, const std::vector<int32_t>& positions) {
      return error_of([&] {
        KvIndexWriter(folder / "i", made_context(), kind.dtype, made_options(other), {.resume = true}, positions);
      });
    };
    CHECK(why(kind, kMadePositions).empty());
    CHECK(contains(why({kind.dtype, 2, true}, kMadePositions), "another size of sketches"));
    CHECK(contains(why({kind.dtype, 0, true}, kMadePositions), "another size of sketches"));
    CHECK(contains(why({kind.dtype, 4, false}, kMadePositions), "another type of centroids"));
    CHECK(contains(why(kind, {12, 13, 14, 12, 12}), "other calibration queries"));
    CHECK(contains(why(kind, {}), "other calibration queries"));
  }

  TEST_CASE("a run that was begun with sketches of signs is not resumed, without sketches either") {
    const TemporaryFolder folder;
    IndexOptions options;
    options.levels = {{0.5, 2}};
    options.n_sinks = options.n_window = options.iterations = 1;
    options.metric = Metric::l2;
    options.segment = 0;
    options.quantise_centroids = true;
    const auto resume = [&](WriteMode mode) {
      KvIndexWriter(folder / "i", made_context(), DType::bf16, options, mode);
    };
    resume({});
    EmptyIndex{.sketch_bits = 0}.write(folder / "i.partial");
    CHECK(error_of([&] { resume({.resume = true}); }).empty());
    EmptyIndex{.sketch_bits = 1}.write(folder / "i.partial");
    CHECK(contains(error_of([&] { resume({.resume = true}); }), "another kind of sketches"));
  }

  TEST_CASE("a layer whose sketches or scales do not fit is not written") {
    const TemporaryFolder folder;
    const MadeIndexKind kind;
    KvIndexWriter writer(folder / "i", made_context(), kind.dtype, made_options(kind), {}, kMadePositions);
    const auto refused = [&](auto&& change, const char* why) {
      IndexLayer layer = made_index_layer(kind, 0);
      change(layer);
      CHECK(contains(error_of([&] { writer.write_layer(0, layer, {}, made_queries(kind, 0)); }), why));
      CHECK(writer.n_layers_done() == 0);
    };
    refused([](IndexLayer& l) { l.heads[0].sketches.codebooks.group_dim = 2; }, "groups of 2 for");
    refused([](IndexLayer& l) { l.heads[0].sketches.codebooks.dims.pop_back(); }, "a head has");
    refused([](IndexLayer& l) { l.heads[1].sketches.codebooks.entries.pop_back(); }, "a head has");
    refused([](IndexLayer& l) { l.heads[1].sketches.codebooks.steps.push_back(0); }, "a head has");
    refused([](IndexLayer& l) { l.heads[1].sketches.codes.push_back(0); }, "10 bytes of sketches");
    refused([](IndexLayer& l) { l.heads[1].sketches.scales.pop_back(); },
            "8 scales and groups of 4 for 9 clustered keys");
    refused([](IndexLayer& l) { l.heads[0].sketches = {}; }, "0 bytes of sketches");
    refused([](IndexLayer& l) { l.heads[0].levels[1].centroid_scales.pop_back(); }, "do not fit");
    refused([](IndexLayer& l) { l.heads[0].levels[0].value_scales.clear(); }, "do not fit");
    refused([](IndexLayer& l) { l.heads[0].levels[0].centroids = made_tensor(DType::bf16, {2, 3}, 1); }, "do not fit");
  }

  TEST_CASE("attributes that make no sense are refused, by name") {
    const TemporaryFolder folder;
    CHECK(contains(EmptyIndex{}.error(folder), "upper_keep"));  // all is in its place, but for the data
    CHECK(contains(EmptyIndex{.sketch_bits = 3}.error(folder), "attribute sketch_bits: expected 0 to 2, found 3"));
    CHECK(contains(EmptyIndex{.sketch_bits = -1}.error(folder), "sketch_bits: expected 0 to 2, found -1"));
    CHECK(contains(EmptyIndex{.rotation_seed = 2}.error(folder), "rotation 1, found 2; build the index again"));
    CHECK(contains(EmptyIndex{.centroid_type = "i7"}.error(folder), "centroid_type i8 or keys, found i7"));
    CHECK(contains(EmptyIndex{.centroid_type = ""}.error(folder), "centroid_type"));
    CHECK(contains(EmptyIndex{.centroid_type = "keys"}.error(folder), "centroids"));  // they are stored as i8
    CHECK(contains(EmptyIndex{.left_out = "centroid_type"}.error(folder), "centroids"));
    CHECK(contains(EmptyIndex{.left_out = "rotation_seed"}.error(folder), "attribute rotation_seed is missing"));
    CHECK(contains(EmptyIndex{.sketch_group = 4}.error(folder), "upper_keep"));  // as above, of version 4
    CHECK(contains(EmptyIndex{.sketch_group = 3}.error(folder), "sketch_group 0, 2, 4 or 8, found 3"));
    CHECK(contains(EmptyIndex{.sketch_group = 16}.error(folder), "sketch_group: expected 0 to 8, found 16"));
    CHECK(contains(EmptyIndex{.sketch_group = 2, .stored_group = 4}.error(folder), "/layers/00/sketch_dims"));
  }

  TEST_CASE("datasets that are missing or of another shape are refused, by name") {
    const TemporaryFolder folder;
    for (const std::string name : {"/layers/00/sketches", "/layers/01/sketches", "/layers/00/sketch_scales",
                                   "/layers/01/levels/0/centroid_scales", "/layers/00/levels/0/value_scales"}) {
      CHECK(contains(EmptyIndex{.left_out = name}.error(folder), name));
    }
    for (const std::string name : {"/layers/00/sketches", "/layers/00/sketch_scales", "/layers/01/sketch_dims",
                                   "/layers/00/sketch_entries", "/layers/01/sketch_steps", "/layers/01/sketch_error"}) {
      CHECK(contains(EmptyIndex{.left_out = name, .sketch_group = 4}.error(folder), name));
    }
    CHECK(contains(EmptyIndex{.code_bytes = 2}.error(folder), "/layers/00/sketches"));
    CHECK(contains(EmptyIndex{.sketch_bits = 2}.error(folder), "/layers/00/sketches"));
  }

  TEST_CASE("numbers that make no sense are refused when the file is opened") {
    const TemporaryFolder folder;
    const std::string path = folder / "i";
    const auto refused = [&](const std::string& name, h5::Type type, const Shape& shape, int64_t i, auto value,
                             const char* why) {
      write_made_index(path, MadeIndexKind{}, {.force = true});
      poke(path, name, type, shape, i, value);
      CAPTURE(name);
      CHECK(contains(error_of([&] { KvIndex index(path); }), why));
    };
    const std::string layer = "/layers/01";
    for (const float bad : {NAN, -0.5f, INFINITY}) {
      refused(layer + "/levels/1/centroid_scales", h5::Type::f32, {2, 4}, 6, bad, "head 1: the scale of a centroid");
      refused(layer + "/levels/0/value_scales", h5::Type::f32, {2, 2}, 1, bad, "head 0: the scale of a value mean");
      refused("/calibration/head_shares", h5::Type::f32, {8, 22, 2, 2}, 87, bad, "shares from 0 to 1");
    }
    refused("/calibration/head_shares", h5::Type::f32, {8, 22, 2, 2}, 88 + 3, 1.5f, "shares from 0 to 1");
    for (const int bad : {0x7e00, 0x7c00, 0xfc00, 0x8400}) {
      refused(layer + "/sketch_scales", h5::Type::f16, {2, 9}, 17, static_cast<uint16_t>(bad),
              "head 1: a sketch's scale is negative");
    }
    for (const int32_t bad : {-2, 3, 1 << 30}) {
      refused(layer + "/sketch_dims", h5::Type::i32, {2, 1, 4}, 4, bad, "head 1: expected each of 3 dimensions");
    }
    refused(layer + "/sketch_dims", h5::Type::i32, {2, 1, 4}, 4, int32_t{-1}, "head 1: a dimension is in no group");
    for (const float bad : {NAN, -0.5f, INFINITY}) {
      refused(layer + "/sketch_steps", h5::Type::f32, {2, 1, 4}, 2, bad, "head 0: a step or the error");
      refused(layer + "/sketch_error", h5::Type::f32, {2}, 1, bad, "head 1: a step or the error");
    }
    refused("/calibration/gqa_select", h5::Type::i32, {1}, 0, int32_t{3}, "gqa_select: expected 0 to 2, found 3");
    refused("/calibration/gqa_select", h5::Type::i32, {1}, 0, int32_t{-1}, "gqa_select: expected 0 to 2");
    refused("/query_positions", h5::Type::i32, {5}, 2, int32_t{-1}, "query positions from 0");
    refused("/calibration/upper_keep", h5::Type::f64, {3}, 1, double{0}, "upper_keep above 0");
  }

  TEST_CASE("a file cut anywhere is refused") {
    const TemporaryFolder folder;
    write_made_index(folder / "i", MadeIndexKind{});
    const std::string bytes = read_bytes(folder / "i");
    for (size_t size = 0; size < bytes.size(); size += size < 2048 ? 97 : 2039) {
      write_bytes(folder / "cut", bytes.substr(0, size));
      CHECK(contains(error_of([&] { KvIndex(folder / "cut"); }), folder / "cut"));
    }
  }
}

// Writes the files of version 4 that the tests above read, where they do not exist yet:
//   unit_tests --test-suite=golden_files --no-skip
TEST_SUITE("golden_files" * doctest::skip()) {
  TEST_CASE("write missing indexes") {
    for (const MadeIndexKind& kind : kGoldenKinds) {
      if (!exists(golden_name(kind))) write_made_index(golden_name(kind), kind);
    }
  }
}
