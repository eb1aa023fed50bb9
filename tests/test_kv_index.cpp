// Tests of indexes: round trips, resuming, refusals, damage, broken trees, files of old versions.
#include <cmath>

#include "formats/h5.hpp"
#include "formats/kv_context.hpp"
#include "tests/made_files.hpp"

using namespace squeeze;

namespace {

const std::string kGolden = SQUEEZE_SOURCE_DIR "/tests/golden/files/";

// Overwrites one int of a dataset of a whole index.
void poke(const std::string& path, const std::string& name, const Shape& shape, size_t i, int32_t value) {
  const h5::Extent extent = h5::Reader(path).extent(name, h5::Type::i32, shape);
  std::string bytes = read_bytes(path);
  std::memcpy(bytes.data() + extent.offset + i * sizeof value, &value, sizeof value);
  write_bytes(path, bytes);
}

}  // namespace

TEST_SUITE("kv_index") {
  TEST_CASE("what is written is read, in every type") {
    const TemporaryFolder folder;
    for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
      const std::string path = folder / name_of(dtype);
      write_made_index(path, dtype);
      const KvIndex index(path);
      CHECK(is_made_index(index, dtype));
      CHECK(index.file_bytes() == static_cast<int64_t>(std::filesystem::file_size(path)));
      CHECK(format_of(path) == kIndexFormat);
    }
  }

  TEST_CASE("one level, one cluster, no sinks, no window") {
    const TemporaryFolder folder;
    Context context = made_context();
    context.model.n_layers = 1;
    IndexOptions options = made_options();
    options.levels = {{0, 1}};
    options.n_sinks = options.n_window = 0;
    IndexLayer layer = made_index_layer(DType::f32, 0);
    layer.n_sinks = layer.n_window = 0;
    for (HeadIndex& head : layer.heads) {
      head.levels.clear();
      head.levels.push_back(made_level(DType::f32, {0, 12}, {}, 3));
    }
    Calibration calibration = made_calibration();
    calibration.upper_keep.clear();
    for (BlockCalibration& block : calibration.blocks) {
      block.flat.pop_back();
      block.pruned.pop_back();
    }
    {
      KvIndexWriter writer(folder / "i", context, DType::f32, options, {});
      writer.write_layer(0, layer, {});
      writer.write_calibration(calibration);
      writer.finish();
    }
    const KvIndex index(folder / "i");
    CHECK(same_head(index.view().layers[0][1], layer.head(1)));
    CHECK(same_calibration(index.calibration(), calibration));
  }

  TEST_CASE("calibration queries are kept, and have to fit their positions") {
    const TemporaryFolder folder;
    const std::vector<int32_t> positions = {9, 10, 11};
    const ModelInfo model = made_context().model;
    const Tensor queries = made_tensor(DType::bf16, {model.n_query_heads, 3, model.head_dim}, 5);
    {
      KvIndexWriter writer(folder / "i", made_context(), DType::bf16, made_options(), {}, positions);
      CHECK(
          contains(error_of([&] { writer.write_layer(0, made_index_layer(DType::bf16, 0), {}); }), "expected queries"));
      for (int l = 0; l < 2; ++l) writer.write_layer(l, made_index_layer(DType::bf16, l), {}, queries);
      CHECK(equal_tensors(writer.queries(1), queries));
      const auto resume = [&] {
        KvIndexWriter(folder / "j", made_context(), DType::bf16, made_options(), {.resume = true}, {7, -3});
      };
      CHECK(contains(error_of(resume), "from 0"));
      writer.write_calibration(made_calibration());
      writer.finish();
    }
    const KvIndex index(folder / "i");
    CHECK(std::ranges::equal(index.query_positions(), positions));
    for (int l = 0; l < 2; ++l) CHECK(equal_tensors(index.queries(l), queries));
    write_made_index(folder / "without", DType::bf16);
    CHECK(contains(error_of([&] { (void)KvIndex(folder / "without").queries(0); }), "no calibration queries"));
  }

  TEST_CASE("a written layer can be read back before the file is whole") {
    const TemporaryFolder folder;
    KvIndexWriter writer(folder / "i", made_context(), DType::bf16, made_options(), {});
    CHECK(contains(error_of([&] { (void)writer.layer(0); }), "not written"));
    writer.write_layer(0, made_index_layer(DType::bf16, 0), {});
    CHECK(is_made_layer(writer.layer(0), DType::bf16, 0));
    CHECK(contains(error_of([&] { (void)writer.layer(1); }), "not written"));
  }

  TEST_CASE("equal input gives equal bytes, also when a run was killed after any layer") {
    const TemporaryFolder folder;
    write_made_index(folder / "whole", DType::bf16);
    write_made_index(folder / "again", DType::bf16);
    const std::string whole = read_bytes(folder / "whole");
    CHECK(read_bytes(folder / "again") == whole);
    for (int n_done = 0; n_done <= 2; ++n_done) {
      const std::string path = folder / std::to_string(n_done);
      {
        KvIndexWriter writer(path, made_context(), DType::bf16, made_options(), {});
        for (int l = 0; l < n_done; ++l) writer.write_layer(l, made_index_layer(DType::bf16, l), made_hidden(l));
        if (n_done == 2) writer.write_calibration(made_calibration());
      }
      {
        const KvIndexWriter writer(path, made_context(), DType::bf16, made_options(), {.resume = true});
        CHECK(writer.n_layers_done() == n_done);
        if (n_done > 0) CHECK(equal_tensors(writer.hidden(), made_hidden(n_done - 1)));
      }
      write_made_index(path, DType::bf16, {.resume = true});
      CHECK(read_bytes(path) == whole);
    }
  }

  TEST_CASE("finish wants the calibration, and it has to fit") {
    const TemporaryFolder folder;
    KvIndexWriter writer(folder / "i", made_context(), DType::bf16, made_options(), {});
    for (int l = 0; l < 2; ++l) writer.write_layer(l, made_index_layer(DType::bf16, l), {});
    CHECK(contains(error_of([&] { writer.finish(); }), "calibration"));
    const auto refused = [&](auto&& change, const char* why) {
      Calibration calibration = made_calibration();
      change(calibration);
      CHECK(contains(error_of([&] { writer.write_calibration(calibration); }), why));
    };
    refused([](Calibration& c) { c.blocks.clear(); }, "block sizes");
    refused([](Calibration& c) { c.blocks[1].block_size = 1; }, "follows");
    refused([](Calibration& c) { c.upper_keep = {}; }, "stages");
    refused([](Calibration& c) { c.upper_keep = {1.5}; }, "upper_keep");
    refused([](Calibration& c) { c.blocks[0].flat[1].thresholds.pop_back(); }, "thresholds");
    refused([](Calibration& c) { c.blocks[0].flat[1].thresholds[3] = NAN; }, "thresholds");
    refused([](Calibration& c) { c.blocks[0].pruned[0].thresholds[3] = -5; }, "thresholds");
    refused([](Calibration& c) { c.source = "guess"; }, "guess");
    CHECK_FALSE(exists(folder / "i"));
  }

  TEST_CASE("layers that do not fit what was reserved are refused") {
    const TemporaryFolder folder;
    KvIndexWriter writer(folder / "i", made_context(), DType::bf16, made_options(), {});
    const auto refused = [&](auto&& change, const char* why) {
      IndexLayer layer = made_index_layer(DType::bf16, 0);
      change(layer);
      CHECK(contains(error_of([&] { writer.write_layer(0, layer, {}); }), why));
      CHECK(writer.n_layers_done() == 0);
    };
    refused([](IndexLayer& l) { l.keys = made_tensor(DType::f16, {2, 12, 3}, 1); }, "expected a layer of bf16");
    refused([](IndexLayer& l) { l.heads.pop_back(); }, "expected a layer");
    refused([](IndexLayer& l) { l.heads[0].token_of_row.pop_back(); }, "rows");
    refused([](IndexLayer& l) { l.heads[0].levels.pop_back(); }, "levels");
    refused(
        [](IndexLayer& l) {
          l.heads[1].levels[0] = made_level(DType::bf16, {1, 4, 7, 10}, {0, 1, 2, 3}, 1);
        },
        "3 clusters");
    refused([](IndexLayer& l) { l.heads[1].levels[1].first_child = {0, 1, 2, 3}; }, "do not fit");
  }

  TEST_CASE("resuming with other options is refused, by name") {
    const TemporaryFolder folder;
    const std::string path = folder / "i";
    { KvIndexWriter writer(path, made_context(), DType::bf16, made_options(), {}); }
    const auto refused = [&](auto&& change, const char* why) {
      IndexOptions options = made_options();
      change(options);
      const std::string error =
          error_of([&] { KvIndexWriter(path, made_context(), DType::bf16, options, {.resume = true}); });
      CHECK(contains(error, why));
    };
    refused([](IndexOptions& o) { o.seed = 2; }, "another seed");
    refused([](IndexOptions& o) { o.metric = Metric::cosine; }, "another metric");
    refused([](IndexOptions& o) { o.iterations = 8; }, "another number of iterations");
    refused([](IndexOptions& o) { o.n_sinks = 0; }, "another number of sinks");
    refused([](IndexOptions& o) { o.n_window = 1; }, "another window");
    refused([](IndexOptions& o) { o.levels[0].count = 1; }, "another number of clusters");
    const auto other_type = [&] { KvIndexWriter(path, made_context(), DType::f16, made_options(), {.resume = true}); };
    CHECK(contains(error_of(other_type), "another element type"));
  }

  TEST_CASE("options that leave nothing to cluster, or cluster more than there is, are refused") {
    const TemporaryFolder folder;
    const auto refused = [&](auto&& change, const char* why) {
      IndexOptions options = made_options();
      change(options);
      CHECK(contains(error_of([&] { KvIndexWriter(folder / "i", made_context(), DType::bf16, options, {}); }), why));
      CHECK_FALSE(exists(folder / "i.partial"));
    };
    refused([](IndexOptions& o) { o.n_window = 11; }, "nothing of 12 tokens");
    refused([](IndexOptions& o) { o.n_sinks = -1; }, "nothing");
    refused([](IndexOptions& o) { o.levels.clear(); }, "levels");
    refused([](IndexOptions& o) { o.levels[1] = {0, 10}; }, "at most 9 clusters");
    refused([](IndexOptions& o) { o.levels[1] = {1.5, 0}; }, "clusters");
  }

  TEST_CASE("a broken tree is refused when the file is opened") {
    const TemporaryFolder folder;
    const std::string path = folder / "i";
    const auto refused = [&](const std::string& name, const Shape& shape, size_t i, int32_t value, const char* why) {
      write_made_index(path, DType::bf16, {.force = true});
      poke(path, name, shape, i, value);
      CAPTURE(name);
      CHECK(contains(error_of([&] { KvIndex index(path); }), why));
    };
    const std::string layer = "/layers/01";
    refused(layer + "/token_of_row", {2, 12}, 13, 12, "token_of_row");
    refused(layer + "/token_of_row", {2, 12}, 13, -1, "token_of_row");
    refused(layer + "/levels/0/n_clusters", {2}, 0, 3, "expected 1 to 2 clusters");
    refused(layer + "/levels/1/n_clusters", {2}, 1, 0, "expected 1 to 4 clusters");
    refused(layer + "/levels/1/n_clusters", {2}, 1, -7, "clusters");
    refused(layer + "/levels/1/first_row", {2, 5}, 0, 0, "rows of level 1");
    refused(layer + "/levels/1/first_row", {2, 5}, 1, 5, "rows of level 1");
    refused(layer + "/levels/1/first_row", {2, 5}, 4, 11, "rows of level 1");
    refused(layer + "/levels/1/first_row", {2, 5}, 2, 1 << 30, "rows of level 1");
    refused(layer + "/levels/0/first_row", {2, 3}, 1, 6, "children of level 0");
    refused(layer + "/levels/0/first_child", {2, 3}, 1, 100, "children of level 0");
    refused(layer + "/levels/0/first_child", {2, 3}, 0, -1, "children of level 0");
    refused("/complete", {1}, 0, 0, "--resume");
    refused("/calibration/block_sizes", {8}, 0, 0, "block sizes");
    refused("/calibration/block_sizes", {8}, 1, -1, "block size");
    refused("/tokens", {12}, 0, -1, "negative");
  }

  TEST_CASE("a file cut anywhere is refused") {
    const TemporaryFolder folder;
    write_made_index(folder / "i", DType::bf16);
    const std::string bytes = read_bytes(folder / "i");
    for (size_t size = 0; size < bytes.size(); size += size < 2048 ? 97 : 1021) {
      write_bytes(folder / "cut", bytes.substr(0, size));
      CHECK(contains(error_of([&] { KvIndex(folder / "cut"); }), folder / "cut"));
    }
  }

  TEST_CASE("a dump is no index, an index no dump, and both say so") {
    const TemporaryFolder folder;
    write_made_index(folder / "i", DType::bf16);
    write_made_dump(folder / "d", DType::bf16);
    CHECK(contains(error_of([&] { KvDump(folder / "i"); }), "expected format squeeze-kv-dump, found squeeze-index"));
    CHECK(contains(error_of([&] { KvIndex(folder / "d"); }), "expected format squeeze-index, found squeeze-kv-dump"));
  }

  TEST_CASE("an index that another program rewrote in chunks says how to repair it") {
    const std::string error = error_of([] { KvIndex(kGolden + "hostile_chunked.sqz.h5"); });
    CHECK(contains(error, "h5repack"));
  }

  TEST_CASE("an index of version 1 is read for ever") {
    CHECK(is_made_index(KvIndex(kGolden + "index_v1_bf16.sqz.h5"), DType::bf16));
    CHECK(is_made_index(KvIndex(kGolden + "index_v1_f32.sqz.h5"), DType::f32));
  }
}

// Writes the dumps that the tests of kv_dump read, where they do not exist yet (indexes: test_sketched_index.cpp):
//   unit_tests --test-suite=golden_files --no-skip
TEST_SUITE("golden_files" * doctest::skip()) {
  TEST_CASE("write missing dumps") {
    for (const DType dtype : {DType::bf16, DType::f16}) {
      const std::string dump = kGolden + "dump_v1_" + name_of(dtype) + ".kv.h5";
      if (!exists(dump)) write_made_dump(dump, dtype);
    }
  }
}
