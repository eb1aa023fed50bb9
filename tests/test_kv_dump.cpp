// Tests of KV dumps: round trips, resuming, refusals, damage, files of other programs and of old versions.
#include <sys/resource.h>

#include <csignal>

#include "formats/h5.hpp"
#include "formats/kv_context.hpp"
#include "tests/made_files.hpp"

using namespace squeeze;

namespace {

const std::string kGolden = SQUEEZE_SOURCE_DIR "/tests/golden/files/";

// Runs `body` while no file may grow beyond `bytes`, as on a full disk.
template <class Body>
std::string error_on_full_disk(uint64_t bytes, Body&& body) {
  struct rlimit before {};
  ::getrlimit(RLIMIT_FSIZE, &before);
  auto* handler = std::signal(SIGXFSZ, SIG_IGN);
  struct rlimit limited = before;
  limited.rlim_cur = bytes;
  ::setrlimit(RLIMIT_FSIZE, &limited);
  std::string error = error_of(body);
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  return error;
}

}  // namespace

TEST_SUITE("kv_dump") {
  TEST_CASE("what is written is read, in every type") {
    const TemporaryFolder folder;
    for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
      const std::string path = folder / name_of(dtype);
      write_made_dump(path, dtype);
      CHECK(is_made_dump(KvDump(path), dtype));
      CHECK(format_of(path) == kDumpFormat);
      CHECK_FALSE(exists(path + ".partial"));
      CHECK_FALSE(exists(path + ".partial.state"));
    }
  }

  TEST_CASE("the smallest dump: one token, no queries, no probes, no text, no documents") {
    const TemporaryFolder folder;
    Context context;
    context.model = {"", "", 1, 1, 1, 1, 1.0f, "{}"};
    context.tokens = {0};
    {
      KvDumpWriter writer(folder / "d", context, {DType::f32, {}, {}, {}}, {});
      writer.write_layer(
          0,
          {made_tensor(DType::f32, {1, 1, 1}, 1), made_tensor(DType::f32, {1, 1, 1}, 2), Tensor(DType::f32, {1, 0, 1})},
          {}, {});
      writer.finish();
    }
    const KvDump dump(folder / "d");
    CHECK(same_context(dump.context(), context));
    CHECK(dump.layer(0).queries.shape() == Shape{1, 0, 1});
    CHECK(equal_tensors(dump.layer(0).values, made_tensor(DType::f32, {1, 1, 1}, 2)));
  }

  TEST_CASE("equal input gives equal bytes, and datasets start at multiples of 64 bytes") {
    const TemporaryFolder folder;
    write_made_dump(folder / "a", DType::bf16);
    write_made_dump(folder / "b", DType::bf16);
    CHECK(read_bytes(folder / "a") == read_bytes(folder / "b"));
    const h5::Reader file(folder / "a");
    CHECK(file.extent("/layers/01/values", h5::Type::bf16, {2, 12, 3}).offset % 64 == 0);
  }

  TEST_CASE("a run that stops after any layer is resumed, with its hidden states, to the same bytes") {
    const TemporaryFolder folder;
    write_made_dump(folder / "whole", DType::f16);
    for (int n_done = 0; n_done <= 2; ++n_done) {
      const std::string path = folder / std::to_string(n_done);
      {
        KvDumpWriter writer(path, made_context(), made_spec(DType::f16), {});
        write_dump_layers(writer, DType::f16, 0, n_done);
      }
      CHECK_FALSE(exists(path));
      {
        KvDumpWriter writer(path, made_context(), made_spec(DType::f16), {.resume = true});
        CHECK(writer.n_layers_done() == n_done);
        if (n_done == 0) CHECK(writer.hidden().data() == nullptr);
        if (n_done > 0) CHECK(equal_tensors(writer.hidden(), made_hidden(n_done - 1)));
        write_dump_layers(writer, DType::f16, n_done, 2);
        writer.finish();
      }
      CHECK(read_bytes(path) == read_bytes(folder / "whole"));
    }
  }

  TEST_CASE("layers may start again, but not leave one out; finish wants all") {
    const TemporaryFolder folder;
    KvDumpWriter writer(folder / "d", made_context(), made_spec(DType::bf16), {});
    CHECK(contains(error_of([&] { write_dump_layers(writer, DType::bf16, 1, 2); }), "layer 1"));
    CHECK(contains(error_of([&] { writer.finish(); }), "only 0 of 2 layers"));
    write_dump_layers(writer, DType::bf16, 0, 2);
    write_dump_layers(writer, DType::bf16, 0, 1);
    CHECK(writer.n_layers_done() == 1);
    write_dump_layers(writer, DType::bf16, 1, 2);
    CHECK(contains(error_of([&] { write_dump_layers(writer, DType::bf16, 2, 3); }), "layer 2"));
    writer.finish();
    CHECK(is_made_dump(KvDump(folder / "d"), DType::bf16));
  }

  TEST_CASE("tensors of another shape or type are refused") {
    const TemporaryFolder folder;
    KvDumpWriter writer(folder / "d", made_context(), made_spec(DType::bf16), {});
    CHECK(contains(error_of([&] { write_dump_layers(writer, DType::f16, 0, 1); }),
                   "expected bf16 [2, 12, 3], found f16"));
    CHECK(contains(error_of([&] { writer.write_layer(0, made_dump_layer(DType::bf16, 0), {}, {}); }), "2 probes"));
    CHECK(writer.n_layers_done() == 0);
  }

  TEST_CASE("an existing file is kept without force, at the start and at the end") {
    const TemporaryFolder folder;
    const std::string path = folder / "d";
    write_bytes(path, "precious");
    CHECK(contains(error_of([&] { write_made_dump(path, DType::bf16); }), "--force"));
    CHECK(read_bytes(path) == "precious");
    write_made_dump(path, DType::bf16, {.force = true});
    CHECK(is_made_dump(KvDump(path), DType::bf16));

    const std::string late = folder / "late";
    KvDumpWriter writer(late, made_context(), made_spec(DType::bf16), {});
    write_dump_layers(writer, DType::bf16, 0, 2);
    write_bytes(late, "precious");
    CHECK(contains(error_of([&] { writer.finish(); }), "appeared"));
    CHECK(read_bytes(late) == "precious");
    CHECK(exists(late + ".partial"));
  }

  TEST_CASE("only one process writes a file, and a stale partial file is begun anew") {
    const TemporaryFolder folder;
    const std::string path = folder / "d";
    {
      KvDumpWriter writer(path, made_context(), made_spec(DType::bf16), {});
      write_dump_layers(writer, DType::bf16, 0, 1);
      CHECK(contains(error_of([&] { write_made_dump(path, DType::bf16); }), "another process"));
      CHECK(contains(error_of([&] { write_made_dump(path, DType::bf16, {.resume = true}); }), "another process"));
    }
    KvDumpWriter writer(path, made_context(), made_spec(DType::bf16), {});
    CHECK(writer.n_layers_done() == 0);
  }

  TEST_CASE("resuming with anything else than before is refused, by name") {
    const TemporaryFolder folder;
    const std::string path = folder / "d";
    {
      KvDumpWriter writer(path, made_context(), made_spec(DType::bf16), {});
      write_dump_layers(writer, DType::bf16, 0, 1);
    }
    const auto resume = [&](const Context& context, const DumpSpec& spec) {
      return error_of([&] { KvDumpWriter(path, context, spec, {.resume = true}); });
    };
    Context other_model = made_context(), other_text = made_context();
    other_model.model.model_fingerprint = "other";
    other_text.tokens[3] += 1;
    DumpSpec other_window = made_spec(DType::bf16), other_probes = made_spec(DType::bf16);
    other_window.query_positions = {10, 11};
    other_probes.probes[0][0] += 1;
    CHECK(contains(resume(other_model, made_spec(DType::bf16)), "another model"));
    CHECK(contains(resume(other_text, made_spec(DType::bf16)), "another text"));
    CHECK(contains(resume(made_context(), made_spec(DType::f16)), "another element type"));
    CHECK(contains(resume(made_context(), other_window), "another window"));
    CHECK(contains(resume(made_context(), other_probes), "another set of probes"));
    write_made_dump(path, DType::bf16, {.resume = true});
    CHECK(is_made_dump(KvDump(path), DType::bf16));
  }

  TEST_CASE("a damaged journal is reported, a missing one starts anew") {
    const TemporaryFolder folder;
    const std::string path = folder / "d";
    {
      KvDumpWriter writer(path, made_context(), made_spec(DType::bf16), {});
      write_dump_layers(writer, DType::bf16, 0, 1);
    }
    const std::string journal = read_bytes(path + ".partial.state");
    const auto resume = [&] { KvDumpWriter(path, made_context(), made_spec(DType::bf16), {.resume = true}); };
    for (size_t i = 0; i < journal.size(); i += 7) {
      std::string damaged = journal;
      damaged[i] = static_cast<char>(damaged[i] ^ 0x20);
      write_bytes(path + ".partial.state", damaged);
      CHECK(contains(error_of(resume), "without --resume"));
      write_bytes(path + ".partial.state", journal.substr(0, i));
      CHECK(contains(error_of(resume), "without --resume"));
    }
    std::filesystem::remove(path + ".partial.state");
    CHECK(KvDumpWriter(path, made_context(), made_spec(DType::bf16), {.resume = true}).n_layers_done() == 0);
  }

  TEST_CASE("a partial file is not read under any name") {
    const TemporaryFolder folder;
    {
      KvDumpWriter writer(folder / "d", made_context(), made_spec(DType::bf16), {});
      write_dump_layers(writer, DType::bf16, 0, 2);
    }
    std::filesystem::rename(folder / "d.partial", folder / "e");
    CHECK(contains(error_of([&] { KvDump(folder / "e"); }), "--resume"));
  }

  TEST_CASE("a full disk is one error, leaves nothing and loses nothing") {
    const TemporaryFolder folder;
    const std::string path = folder / "d";
    write_made_dump(path, DType::bf16);
    const std::string before = read_bytes(path);
    for (const uint64_t limit : {0u, 100u, 3000u, 9000u}) {
      REQUIRE(limit < before.size());
      const std::string error = error_on_full_disk(limit, [&] { write_made_dump(path, DType::bf16, {.force = true}); });
      CHECK(contains(error, path + ".partial"));
      CHECK(std::count(error.begin(), error.end(), '\n') == 0);
      CHECK_FALSE(exists(path + ".partial"));
      CHECK(read_bytes(path) == before);
    }
    write_made_dump(path, DType::bf16, {.force = true});
    CHECK(read_bytes(path) == before);
  }

  TEST_CASE("a disk that fills up between layers is one error, and the run can be resumed") {
    const TemporaryFolder folder;
    const std::string path = folder / "d";
    {
      KvDumpWriter writer(path, made_context(), made_spec(DType::bf16), {});
      write_dump_layers(writer, DType::bf16, 0, 1);
      const Tensor too_large = Tensor::zeros(DType::f32, {1 << 16});
      const std::string error = error_on_full_disk(std::filesystem::file_size(path + ".partial"), [&] {
        writer.write_layer(1, made_dump_layer(DType::bf16, 1), made_dump_probes(DType::bf16, 1), too_large);
      });
      CHECK(contains(error, "cannot write"));
      CHECK_FALSE(exists(path + ".partial.state.new"));
    }
    KvDumpWriter writer(path, made_context(), made_spec(DType::bf16), {.resume = true});
    CHECK(writer.n_layers_done() == 1);
    CHECK(equal_tensors(writer.hidden(), made_hidden(0)));
    write_dump_layers(writer, DType::bf16, 1, 2);
    writer.finish();
    CHECK(is_made_dump(KvDump(path), DType::bf16));
  }

  TEST_CASE("a context or spec that makes no sense is refused before any file is made") {
    const TemporaryFolder folder;
    const auto refused = [&](auto&& change, const char* why) {
      Context context = made_context();
      DumpSpec spec = made_spec(DType::bf16);
      change(context, spec);
      CHECK(contains(error_of([&] { KvDumpWriter(folder / "d", context, spec, {}); }), why));
      CHECK_FALSE(exists(folder / "d.partial"));
    };
    refused([](Context& c, DumpSpec&) { c.tokens.clear(); }, "tokens");
    refused([](Context& c, DumpSpec&) { c.tokens[1] = -1; }, "negative");
    refused([](Context& c, DumpSpec&) { c.model.n_kv_heads = 3; }, "multiple");
    refused([](Context& c, DumpSpec&) { c.model.head_dim = 1 << 20; }, "head_dim");
    refused([](Context& c, DumpSpec&) { c.model.softmax_scale = 0; }, "softmax_scale");
    refused([](Context& c, DumpSpec&) { c.text = "a\xff"; }, "UTF-8 at byte 1");
    refused([](Context& c, DumpSpec&) { c.documents[1].first_token = 13; }, "starts at token 13");
    refused([](Context&, DumpSpec& s) { s.query_positions = {11, 10}; }, "query positions");
    refused([](Context&, DumpSpec& s) { s.query_positions = {12}; }, "query positions");
    refused([](Context&, DumpSpec& s) { s.probes[0].clear(); }, "no tokens");
  }

  TEST_CASE("a file cut anywhere is refused") {
    const TemporaryFolder folder;
    write_made_dump(folder / "d", DType::bf16);
    const std::string bytes = read_bytes(folder / "d");
    for (size_t size = 0; size < bytes.size(); size += size < 2048 ? 61 : 509) {
      write_bytes(folder / "cut", bytes.substr(0, size));
      CHECK(contains(error_of([&] { KvDump(folder / "cut"); }), folder / "cut"));
    }
    CHECK(contains(error_of([&] { KvDump(folder / "none"); }), "No such file"));
    CHECK(contains(error_of([&] { format_of(folder / "."); }), "not a regular file"));
    write_bytes(folder / "text", "not HDF5 at all");
    CHECK(contains(error_of([&] { format_of(folder / "text"); }), "not an HDF5 file"));
  }

  TEST_CASE("a dump of version 1 is read for ever") {
    CHECK(is_made_dump(KvDump(kGolden + "dump_v1_bf16.kv.h5"), DType::bf16));
    CHECK(is_made_dump(KvDump(kGolden + "dump_v1_f16.kv.h5"), DType::f16));
  }

  TEST_CASE("dumps of other programs: compressed, big-endian, double, extra names") {
    const KvDump dump(kGolden + "third_party.kv.h5");
    CHECK(dump.dtype() == DType::f32);
    for (int layer = 0; layer < 2; ++layer) CHECK(same_layer(dump.layer(layer), made_dump_layer(DType::f32, layer)));
    CHECK(dump.layer(0).keys.data() == dump.layer(0).keys.data());
    CHECK(dump.context().tokens == made_context().tokens);
    CHECK(dump.context().text == made_context().text);
  }

  TEST_CASE("files that point to other files or places are refused") {
    for (const char* name : {"external_link", "soft_link", "external_data", "virtual"}) {
      const std::string path = kGolden + "hostile_" + name + ".kv.h5";
      CAPTURE(path);
      const std::string error = error_of([&] {
        KvDump dump(path);
        (void)dump.layer(0);
      });
      CHECK((contains(error, "link to elsewhere") || contains(error, "in other files")));
    }
    CHECK(contains(error_of([&] { KvDump(kGolden + "hostile_variable_string.kv.h5"); }), "fixed length"));
    CHECK(contains(error_of([&] { KvDump(kGolden + "hostile_no_data.kv.h5").layer(0); }), "does not hold"));
  }
}
