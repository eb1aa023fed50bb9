// HDF5 behind a checked reader and a writer of preallocated files; h5.cpp is the only file that sees HDF5.
//
// Names are absolute ("/layers/00/keys"); attributes are those of the root group. Every failure is an Error that names
// the file. Only fixed-length strings and hard links are accepted, and no data outside the file itself.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lib/core/tensor.hpp"

namespace squeeze::h5 {

// Element types of the datasets; little-endian. bf16 is a 16-bit float with 8 bits of exponent.
enum class Type : uint8_t { i32, f64, f32, f16, bf16, i8, u8 };

Type type_of(DType dtype);
size_t size_of(Type type);

// Where the bytes of a contiguous dataset lie in its file.
struct Extent {
  uint64_t offset = 0;
  uint64_t n_bytes = 0;
};

// An HDF5 identifier that closes itself.
class Handle {
 public:
  using Close = int (*)(int64_t);

  Handle() = default;
  Handle(int64_t id, Close close) : id_(id), close_(close) {}
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, -1)), close_(other.close_) {}
  Handle& operator=(Handle&& other) noexcept;
  ~Handle() { reset(); }

  int64_t id() const { return id_; }
  void reset();

 private:
  int64_t id_ = -1;
  Close close_ = nullptr;
};

class Reader {
 public:
  explicit Reader(const std::string& path);

  const std::string& path() const { return path_; }
  int64_t file_bytes() const { return file_bytes_; }

  bool has_attribute(const std::string& name) const;
  int64_t integer(const std::string& name) const;
  uint64_t unsigned_integer(const std::string& name) const;
  double real(const std::string& name) const;
  std::string text_attribute(const std::string& name) const;

  bool has(const std::string& name) const;
  Shape shape(const std::string& name) const;
  std::vector<int32_t> read_i32(const std::string& name, const Shape& expected) const;
  std::vector<double> read_f64(const std::string& name, const Shape& expected) const;
  std::string read_text(const std::string& name) const;                  // a scalar string, every byte of it
  std::vector<std::string> read_strings(const std::string& name) const;  // [n], without their padding

  // The float type nearest to how a dataset is stored (f32 for anything wider); throws if it holds no floats.
  DType float_type(const std::string& name) const;
  // Where a dataset lies, if it is stored exactly as `type`, contiguous and aligned to its elements.
  // Throws if the shape differs, or if it lies outside the file.
  std::optional<Extent> find_extent(const std::string& name, Type type, const Shape& expected) const;
  // The same for data that must be mapped: throws, and says how to repack the file, if it cannot.
  Extent extent(const std::string& name, Type type, const Shape& expected) const;
  // Any float dataset, converted.
  Tensor read_floats(const std::string& name, DType dtype, const Shape& expected) const;

 private:
  Handle open(const std::string& name) const;
  Handle open_readable(const std::string& name, const Shape& expected, size_t element_bytes) const;
  std::vector<char> read_fixed_strings(const std::string& name, size_t& length) const;
  void read_attribute(const std::string& name, int64_t memory_type, bool integer_only, void* out) const;

  std::string path_;
  int64_t file_bytes_ = 0;
  Handle file_;
};

// Creates (truncates) a file and everything in it at its final size: contiguous, allocated, zero unless given. Nothing
// in it depends on the time. The data is written later, at the extents that a Reader tells, so that the structure of
// the file never changes again. `alignment`: of each dataset in the file, in bytes.
class Skeleton {
 public:
  Skeleton(const std::string& path, uint64_t alignment);

  void attribute(const std::string& name, int64_t value);
  void attribute(const std::string& name, uint64_t value);
  void attribute(const std::string& name, double value);
  void attribute(const std::string& name, std::string_view value);

  // Creates the groups above it too.
  void dataset(const std::string& name, Type type, const Shape& shape);
  void dataset(const std::string& name, std::span<const int32_t> values);
  void dataset(const std::string& name, std::span<const double> values);
  void text(const std::string& name, std::string_view value);
  void strings(const std::string& name, const std::vector<std::string>& values);

  void close();  // flushes; throws if the file could not be written

 private:
  void write_attribute(const std::string& name, int64_t type, const void* value);
  void create_groups(const std::string& name);
  Handle create(const std::string& name, int64_t type, const Handle& space);

  std::string path_;
  Handle file_;
  Handle group_options_;
  Handle dataset_options_;
};

}  // namespace squeeze::h5
