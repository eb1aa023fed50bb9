// Mutated files: a reader of a file whose bytes were changed anywhere throws an Error, or gives an object all of whose
// arrays can be read (the sanitizers watch). The mutations are the same in every run.
#include <functional>
#include <random>

#include "tests/made_files.hpp"

using namespace squeeze;

namespace {

const std::string kGolden = SQUEEZE_SOURCE_DIR "/tests/golden/files/";

#ifdef __SANITIZE_ADDRESS__
constexpr int kMutations = 50;  // every trial forks, which is slow with the sanitizer's shadow memory
#else
constexpr int kMutations = 150;
#endif

uint64_t touch(TensorView view) {
  uint64_t sum = 0;
  const auto* bytes = static_cast<const unsigned char*>(view.data());
  for (size_t i = 0; i < view.n_bytes(); ++i) sum += bytes[i];
  return sum;
}

uint64_t touch(const KvLayerView& layer) { return touch(layer.keys) + touch(layer.values) + touch(layer.queries); }

uint64_t touch_dump(const std::string& path) {
  const KvDump dump(path);
  uint64_t sum = dump.context().text.size();
  for (int layer = 0; layer < dump.context().model.n_layers; ++layer) {
    sum += touch(dump.layer(layer));
    for (int probe = 0; probe < dump.n_probes(); ++probe) sum += touch(dump.probe_layer(probe, layer));
  }
  return sum;
}

// Every code and scale of a clustered key.
uint64_t touch_sketches(const HeadView& head) {
  const SketchView& sketches = head.sketches;
  if (!sketches.present()) return 0;
  uint64_t sum = sketches.rotation.data() ? touch(sketches.rotation) : 0;
  std::vector<uint64_t> seen(static_cast<size_t>(head.keys.size(1)), 0);
  for (const int32_t c : sketches.dims) sum += c < 0 ? 1 : ++seen[static_cast<size_t>(c)];
  for (const int8_t entry : sketches.entries) sum += static_cast<uint64_t>(entry);
  for (const float step : sketches.steps) sum += bits_of_float(step);
  const int64_t n_codes = head.n_clustered() * sketches.code_bytes();
  for (int64_t i = 0; i < n_codes; ++i) sum += sketches.codes[i];
  for (int64_t i = 0; i < head.n_clustered(); ++i) sum += sketches.scales[i];
  return sum;
}

// Reads every row of every cluster by way of the tree, and the token of each.
uint64_t touch_head(const HeadView& head, const Context& context) {
  uint64_t sum = touch_sketches(head);
  std::vector<float> wide(static_cast<size_t>(head.keys.size(1)));
  for (const LevelView& level : head.levels) {
    for (int64_t c = 0; c < level.n_clusters(); ++c) {
      for (const ScaledRows& rows : {level.centroid_rows(), level.value_rows()}) {
        rows.widen(c, c + 1, wide.data());
        sum += bits_of_float(wide.front()) + bits_of_float(wide.back());
      }
      const auto i = static_cast<size_t>(c);
      sum += touch(head.keys.slice(level.first_row[i], level.first_row[i + 1]));
      sum += touch(head.values.slice(level.first_row[i], level.first_row[i + 1]));
    }
  }
  for (int64_t row = 0; row < head.n_tokens(); ++row) {
    for (const ScaledRows& rows : {head.key_rows(), head.value_rows()}) {
      rows.widen(row, row + 1, wide.data());
      sum += bits_of_float(wide.front()) + bits_of_float(wide.back());
    }
  }
  for (const int32_t token : head.token_of_row)
    sum += static_cast<uint64_t>(context.tokens[static_cast<size_t>(token)]);
  return sum;
}

uint64_t touch_index(const std::string& path) {
  const KvIndex index(path);
  uint64_t sum = index.calibration().blocks.size();
  for (const BlockCalibration& block : index.calibration().blocks) sum += block.shares.kept.size();
  const ContextView view = index.view();
  for (int layer = 0; layer < view.model.n_layers; ++layer) {
    for (const HeadView& head : view.layers[static_cast<size_t>(layer)]) sum += touch_head(head, index.context());
    if (!index.query_positions().empty()) sum += touch(index.queries(layer));
  }
  return sum;
}

// One to four bytes replaced, or an aligned int overwritten by a telling one, in the first `region` bytes.
std::string mutate(const std::string& original, size_t region, std::mt19937& random) {
  constexpr int32_t kTelling[] = {-1, 0, 1, 2, 3, 255, 65536, 1 << 30, INT32_MAX, INT32_MIN};
  std::string bytes = original;
  if (random() % 3 == 0) {
    std::memcpy(bytes.data() + random() % (region / 4) * 4, &kTelling[random() % std::size(kTelling)], 4);
    return bytes;
  }
  for (unsigned n = random() % 4 + 1; n > 0; --n) bytes[random() % region] = static_cast<char>(random());
  return bytes;
}

void try_mutations(const std::string& file, int n, const std::function<uint64_t(const std::string&)>& read) {
  const TemporaryFolder folder;
  const std::string original = read_bytes(kGolden + file);
  std::mt19937 random(1);
  int n_read = 0, n_refused = 0;
  for (int i = 0; i < n; ++i) {
    const size_t region = i % 2 == 0 ? original.size() : std::min<size_t>(original.size(), 4096);
    write_bytes(folder / "m", mutate(original, region, random));
    try {
      (void)read(folder / "m");
      ++n_read;
    } catch (const Error& error) {
      CHECK(contains(error.what(), folder / "m"));
      ++n_refused;
    }
  }
  MESSAGE(file << ": " << n_read << " of " << n << " mutations were readable");
  CHECK(n_read > 0);
  CHECK(n_refused > 0);
}

}  // namespace

// HDF5 leaks memory when it fails to open a damaged file, or to close one on a full disk.
extern "C" const char* __lsan_default_suppressions() { return "leak:libhdf5"; }

TEST_SUITE("mutations") {
  TEST_CASE("mutated dumps") { try_mutations("dump_v1_bf16.kv.h5", kMutations, touch_dump); }
  TEST_CASE("mutated dumps of another program") { try_mutations("third_party.kv.h5", 2 * kMutations, touch_dump); }
  TEST_CASE("mutated indexes") { try_mutations("index_v1_bf16.sqz.h5", kMutations, touch_index); }
  TEST_CASE("mutated indexes with sketches") { try_mutations("index_v4_bf16.sqz.h5", kMutations, touch_index); }
  TEST_CASE("mutated indexes with sketches of signs") {
    try_mutations("index_v2_bf16.sqz.h5", kMutations, touch_index);
  }
  TEST_CASE("mutated indexes with two bits") { try_mutations("index_v2_f32.sqz.h5", kMutations, touch_index); }
  TEST_CASE("mutated indexes in 8 bits") { try_mutations("index_v3_i8.sqz.h5", kMutations, touch_index); }
}
