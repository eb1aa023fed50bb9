// Index files that are wrong in one place: an empty one of which every attribute and dataset can be left out or
// changed, and whole ones of which one number is overwritten.
#pragma once

#include <algorithm>
#include <cstring>

#include "formats/h5.hpp"
#include "formats/kv_context.hpp"
#include "formats/kv_index_calibration.hpp"
#include "lib/index/build.hpp"
#include "lib/index/sign_sketches.hpp"
#include "tests/made_files.hpp"

namespace squeeze {

// Overwrites one element of a dataset of a whole index.
template <class T>
void poke(const std::string& path, const std::string& name, h5::Type type, const Shape& shape, int64_t i, T value) {
  const h5::Extent extent = h5::Reader(path).extent(name, type, shape);
  REQUIRE(extent.n_bytes == static_cast<size_t>(shape.n_elements()) * sizeof value);
  std::string bytes = read_bytes(path);
  std::memcpy(bytes.data() + extent.offset + static_cast<size_t>(i) * sizeof value, &value, sizeof value);
  write_bytes(path, bytes);
}

// An index file with everything in its place and no data; attributes and datasets can be changed one by one.
struct EmptyIndex {
  std::string centroid_type = "i8", left_out = "none";
  int64_t sketch_bits = 1;
  uint64_t rotation_seed = kRotationSeed;
  int64_t code_bytes = 1;
  std::string kv_type = "keys", float_type = "bf16";
  h5::Type stored_kv = h5::Type::bf16;
  int64_t n_scales = 12;      // per head
  int64_t sketch_group = -1;  // instead of sketch_bits, if not negative
  int64_t stored_group = -1;  // of the codebooks that are there; negative: sketch_group

  std::string error(const TemporaryFolder& folder) const {
    const std::string path = folder / "empty";
    write(path);
    poke(path, "/complete", h5::Type::i32, {1}, 0, int32_t{1});
    const std::string why = error_of([&] { KvIndex index(path); });
    CHECK(contains(why, path));
    return why;
  }

  void write(const std::string& path) const {
    h5::Skeleton file(path, 64);
    save_context(file, kIndexFormat, made_context());
    for (const char* name : {"n_sinks", "n_window", "iterations", "n_levels"}) file.attribute(name, int64_t{1});
    file.attribute("metric", "l2");
    file.attribute("seed", uint64_t{1});
    file.attribute("level_0_share", 0.5);
    file.attribute("level_0_count", int64_t{2});
    if (left_out != "centroid_type") file.attribute("centroid_type", centroid_type);
    if (left_out != "kv_type") file.attribute("kv_type", kv_type);
    if (left_out != "float_type") file.attribute("float_type", float_type);
    if (sketch_group >= 0) file.attribute("sketch_group", sketch_group);
    if (sketch_group < 0 && left_out != "sketch_bits") file.attribute("sketch_bits", sketch_bits);
    if (sketch_group < 0 && left_out != "rotation_seed") file.attribute("rotation_seed", rotation_seed);
    create_calibration(file, {1, sketch_bits > 0, 2, 2});
    const int64_t group = stored_group < 0 ? std::max<int64_t>(sketch_group, 1) : stored_group;
    const auto add = [&](const std::string& name, h5::Type type, const Shape& shape) {
      if (!left_out.ends_with(name)) file.dataset(name, type, shape);
    };
    for (const std::string layer : {"/layers/00/", "/layers/01/"}) {
      for (const char* name : {"keys", "values"}) add(layer + name, stored_kv, {2, 12, 3});
      for (const char* name : {"key_scales", "value_scales"}) add(layer + name, h5::Type::f32, {2, n_scales});
      add(layer + "token_of_row", h5::Type::i32, {2, 12});
      add(layer + "sketches", h5::Type::u8, {2, 10, code_bytes});
      add(layer + "sketch_scales", h5::Type::f16, {2, 10});
      if (sketch_group >= 0) {
        const int64_t n_groups = (3 + group - 1) / group;
        for (const char* name : {"sketch_dims", "sketch_steps"}) {
          add(layer + name, name == std::string("sketch_dims") ? h5::Type::i32 : h5::Type::f32, {2, n_groups, group});
        }
        add(layer + "sketch_entries", h5::Type::i8, {2, n_groups, 16, group});
        add(layer + "sketch_error", h5::Type::f32, {2});
      }
      for (const char* name : {"centroids", "value_means"}) add(layer + "levels/0/" + name, h5::Type::i8, {2, 2, 3});
      for (const char* name : {"centroid_scales", "value_scales"}) {
        add(layer + "levels/0/" + name, h5::Type::f32, {2, 2});
      }
      add(layer + "levels/0/first_row", h5::Type::i32, {2, 3});
      add(layer + "levels/0/n_clusters", h5::Type::i32, {2});
    }
    file.close();
  }
};

}  // namespace squeeze
