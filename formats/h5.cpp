// The only file that sees HDF5, and long for that reason.
#include "formats/h5.hpp"

#include <hdf5.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <type_traits>

#include "lib/core/error.hpp"

namespace squeeze::h5 {
namespace {

static_assert(std::is_same_v<hid_t, int64_t>, "HDF5 1.10 or newer is needed");

constexpr uint64_t kMaxStringBytes = uint64_t{1} << 31;
constexpr uint64_t kMaxCompression = 1100;  // deflate reaches 1032; more is a file that claims data it does not hold

herr_t keep_innermost(unsigned n, const H5E_error2_t* error, void* out) {
  if (n == 0 && error->desc) *static_cast<std::string*>(out) = error->desc;
  return 0;
}

// HDF5's account of a failed system call has several lines; the system's own words are among them.
std::string one_line(const std::string& reason) {
  constexpr std::string_view kSystem = "error message = '";
  const size_t at = reason.find(kSystem);
  if (at == std::string::npos) return reason.substr(0, reason.find('\n'));
  const std::string words = reason.substr(at + kSystem.size());
  return words.substr(0, words.find('\''));
}

[[noreturn]] void fail_h5(const std::string& path, std::string_view what) {
  std::string reason = "no reason given";
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_innermost, &reason);
  H5Eclear2(H5E_DEFAULT);
  fail("{}: cannot {}: {} (HDF5)", path, what, one_line(reason));
}

template <class Result>
Result check(Result result, const std::string& path, std::string_view what) {
  if (result < 0) fail_h5(path, what);
  return result;
}

// Without HDF5's own clean-up at exit, which crashes after a file that could not be written; every handle closes
// itself.
void start_hdf5() {
  static const bool started = [] { return H5dont_atexit() >= 0 && H5open() >= 0; }();
  if (!started) fail("cannot start HDF5");
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
}

// Locks are ours to take (PartialFile), and a file on read-only media has to be readable.
Handle access_options(uint64_t alignment) {
  start_hdf5();
  Handle options(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  H5Pset_file_locking(options.id(), false, true);
  H5Pset_libver_bounds(options.id(), H5F_LIBVER_V18, H5F_LIBVER_V110);  // checksums on all metadata; 1.10 reads it
  if (alignment > 1) {
    H5Pset_alignment(options.id(), 1, alignment);
    H5Pset_small_data_block_size(options.id(), 0);  // small datasets are aligned too
  }
  return options;
}

Handle small_float(size_t exponent_bits, size_t mantissa_bits, size_t bias) {
  Handle type(H5Tcopy(H5T_IEEE_F32LE), H5Tclose);
  H5Tset_fields(type.id(), 15, mantissa_bits, exponent_bits, 0, mantissa_bits);
  H5Tset_size(type.id(), 2);
  H5Tset_ebias(type.id(), bias);
  return type;
}

Handle h5_type(Type type) {
  switch (type) {
    case Type::i32:
      return {H5Tcopy(H5T_STD_I32LE), H5Tclose};
    case Type::f64:
      return {H5Tcopy(H5T_IEEE_F64LE), H5Tclose};
    case Type::f32:
      return {H5Tcopy(H5T_IEEE_F32LE), H5Tclose};
    case Type::i8:
      return {H5Tcopy(H5T_STD_I8LE), H5Tclose};
    case Type::u8:
      return {H5Tcopy(H5T_STD_U8LE), H5Tclose};
    case Type::f16:
      return small_float(5, 10, 15);
    case Type::bf16:
      return small_float(8, 7, 127);
  }
  fail("unknown element type {}", static_cast<int>(type));
}

const char* name_of(Type type) {
  constexpr const char* kNames[] = {"i32", "f64", "f32", "f16", "bf16", "i8", "u8"};
  return kNames[static_cast<size_t>(type)];
}

Handle string_type(size_t length) {
  Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
  H5Tset_size(type.id(), length);
  H5Tset_strpad(type.id(), H5T_STR_NULLPAD);
  H5Tset_cset(type.id(), H5T_CSET_UTF8);
  return type;
}

Handle data_space(const Shape& shape) {
  hsize_t sizes[Shape::kMaxRank];
  for (int i = 0; i < shape.rank(); ++i) sizes[i] = static_cast<hsize_t>(shape[i]);
  return {H5Screate_simple(shape.rank(), sizes, nullptr), H5Sclose};
}

Shape shape_of(hid_t dataset, const std::string& where) {
  const Handle space(check(H5Dget_space(dataset), where, "read the shape"), H5Sclose);
  const H5S_class_t kind = H5Sget_simple_extent_type(space.id());
  const int rank = H5Sget_simple_extent_ndims(space.id());
  if (kind == H5S_SCALAR) return {};
  if (kind != H5S_SIMPLE || rank > Shape::kMaxRank) {
    fail("{}: expected an array of at most {} dimensions, found {}", where, Shape::kMaxRank, rank);
  }
  hsize_t sizes[Shape::kMaxRank];
  int64_t result[Shape::kMaxRank];
  check(H5Sget_simple_extent_dims(space.id(), sizes, nullptr), where, "read the shape");
  for (int i = 0; i < rank; ++i) {
    if (sizes[i] > uint64_t{1} << 60) fail("{}: a dimension of {} is too large", where, sizes[i]);
    result[i] = static_cast<int64_t>(sizes[i]);
  }
  return Shape(std::span<const int64_t>(result, static_cast<size_t>(rank)));
}

void check_shape(const std::string& where, const Shape& found, const Shape& expected) {
  if (!(found == expected)) fail("{}: expected shape {}, found {}", where, expected.str(), found.str());
}

std::vector<std::string> group_paths(const std::string& name) {
  std::vector<std::string> paths;
  for (size_t at = name.find('/', 1); at != std::string::npos; at = name.find('/', at + 1)) {
    paths.push_back(name.substr(0, at));
  }
  return paths;
}

void trim_padding(std::string& text) { text.erase(text.find_last_not_of('\0') + 1); }

}  // namespace

Type type_of(DType dtype) {
  constexpr Type kTypes[] = {Type::f32, Type::f16, Type::bf16, Type::i8};
  return kTypes[static_cast<size_t>(dtype)];
}

size_t size_of(Type type) {
  constexpr size_t kSizes[] = {4, 8, 4, 2, 2, 1, 1};
  return kSizes[static_cast<size_t>(type)];
}

Handle& Handle::operator=(Handle&& other) noexcept {
  std::swap(id_, other.id_);
  std::swap(close_, other.close_);
  return *this;
}

void Handle::reset() {
  if (id_ >= 0) close_(id_);
  id_ = -1;
}

// ---- Reader

Reader::Reader(const std::string& path) : path_(path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) fail("{}: cannot open: {}", path, std::strerror(errno));
  if (!S_ISREG(status.st_mode)) fail("{}: is not a regular file", path);
  file_bytes_ = status.st_size;
  const Handle options = access_options(0);
  const htri_t is_hdf5 = H5Fis_hdf5(path.c_str());
  if (is_hdf5 == 0) fail("{}: is not an HDF5 file", path);
  file_ = Handle(check(H5Fopen(path.c_str(), H5F_ACC_RDONLY, options.id()), path, "open as HDF5"), H5Fclose);
}

bool Reader::has_attribute(const std::string& name) const {
  return check(H5Aexists(file_.id(), name.c_str()), path_, "look up attribute " + name) > 0;
}

void Reader::read_attribute(const std::string& name, int64_t memory_type, bool integer_only, void* out) const {
  const std::string where = path_ + ": attribute " + name;
  if (!has_attribute(name)) fail("{} is missing", where);
  const Handle attribute(check(H5Aopen(file_.id(), name.c_str(), H5P_DEFAULT), where, "open"), H5Aclose);
  const Handle type(check(H5Aget_type(attribute.id()), where, "read the type"), H5Tclose);
  const Handle space(check(H5Aget_space(attribute.id()), where, "read the shape"), H5Sclose);
  const H5T_class_t kind = H5Tget_class(type.id());
  if (kind != H5T_INTEGER && (integer_only || kind != H5T_FLOAT)) fail("{}: expected a number", where);
  if (H5Sget_simple_extent_npoints(space.id()) != 1) fail("{}: expected one number", where);
  check(H5Aread(attribute.id(), memory_type, out), where, "read");
}

int64_t Reader::integer(const std::string& name) const {
  int64_t value = 0;
  read_attribute(name, H5T_NATIVE_INT64, true, &value);
  return value;
}

uint64_t Reader::unsigned_integer(const std::string& name) const {
  uint64_t value = 0;
  read_attribute(name, H5T_NATIVE_UINT64, true, &value);
  return value;
}

double Reader::real(const std::string& name) const {
  double value = 0;
  read_attribute(name, H5T_NATIVE_DOUBLE, false, &value);
  return value;
}

std::string Reader::text_attribute(const std::string& name) const {
  const std::string where = path_ + ": attribute " + name;
  if (!has_attribute(name)) fail("{} is missing", where);
  const Handle attribute(check(H5Aopen(file_.id(), name.c_str(), H5P_DEFAULT), where, "open"), H5Aclose);
  const Handle type(check(H5Aget_type(attribute.id()), where, "read the type"), H5Tclose);
  const Handle space(check(H5Aget_space(attribute.id()), where, "read the shape"), H5Sclose);
  // Variable-length strings are read by HDF5 1.10 without comparing their two lengths: not from files like these.
  if (H5Tget_class(type.id()) != H5T_STRING || H5Tis_variable_str(type.id()) != 0 ||
      H5Sget_simple_extent_npoints(space.id()) != 1) {
    fail("{}: expected one string of fixed length", where);
  }
  if (H5Tget_size(type.id()) > static_cast<uint64_t>(file_bytes_)) fail("{}: is longer than the file", where);
  std::string value(H5Tget_size(type.id()), '\0');
  check(H5Aread(attribute.id(), type.id(), value.data()), where, "read");
  trim_padding(value);
  return value;
}

// Links to other places or files are not followed: a file must not make its reader open another.
bool Reader::has(const std::string& name) const {
  std::vector<std::string> paths = group_paths(name);
  paths.push_back(name);
  for (const std::string& path : paths) {
    if (check(H5Lexists(file_.id(), path.c_str(), H5P_DEFAULT), path_, "look up " + path) == 0) return false;
    H5L_info_t link;
    check(H5Lget_info(file_.id(), path.c_str(), &link, H5P_DEFAULT), path_, "look up " + path);
    if (link.type != H5L_TYPE_HARD) fail("{}: {} is a link to elsewhere; copy the data into the file", path_, path);
  }
  return true;
}

Handle Reader::open(const std::string& name) const {
  if (!has(name)) fail("{}: dataset {} is missing", path_, name);
  Handle dataset(check(H5Dopen2(file_.id(), name.c_str(), H5P_DEFAULT), path_, "open dataset " + name), H5Dclose);
  const Handle options(check(H5Dget_create_plist(dataset.id()), path_, "open dataset " + name), H5Pclose);
  if (H5Pget_external_count(options.id()) != 0 || H5Pget_layout(options.id()) == H5D_VIRTUAL) {
    fail("{}: the data of {} lies in other files; copy it into this one", path_, name);
  }
  return dataset;
}

Handle Reader::open_readable(const std::string& name, const Shape& expected, size_t element_bytes) const {
  Handle dataset = open(name);
  check_shape(path_ + ": " + name, shape_of(dataset.id(), path_ + ": " + name), expected);
  const uint64_t n_bytes = static_cast<uint64_t>(expected.n_elements()) * element_bytes;
  if (n_bytes / kMaxCompression > static_cast<uint64_t>(file_bytes_) ||
      (n_bytes > 0 && H5Dget_storage_size(dataset.id()) == 0)) {
    fail("{}: {} declares {} bytes that the file does not hold", path_, name, n_bytes);
  }
  return dataset;
}

Shape Reader::shape(const std::string& name) const { return shape_of(open(name).id(), path_ + ": " + name); }

std::vector<int32_t> Reader::read_i32(const std::string& name, const Shape& expected) const {
  const Handle dataset = open_readable(name, expected, sizeof(int32_t));
  const Handle type(check(H5Dget_type(dataset.id()), path_, "read the type of " + name), H5Tclose);
  if (H5Tget_class(type.id()) != H5T_INTEGER) fail("{}: {}: expected integers", path_, name);
  std::vector<int32_t> values(static_cast<size_t>(expected.n_elements()));
  if (!values.empty()) {
    check(H5Dread(dataset.id(), H5T_NATIVE_INT32, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()), path_, "read " + name);
  }
  return values;
}

std::vector<double> Reader::read_f64(const std::string& name, const Shape& expected) const {
  (void)float_type(name);
  const Handle dataset = open_readable(name, expected, sizeof(double));
  std::vector<double> values(static_cast<size_t>(expected.n_elements()));
  if (!values.empty()) {
    check(H5Dread(dataset.id(), H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()), path_,
          "read " + name);
  }
  return values;
}

std::vector<char> Reader::read_fixed_strings(const std::string& name, size_t& length) const {
  const Shape found = shape(name);
  const Handle dataset = open_readable(name, found, 1);
  const Handle type(check(H5Dget_type(dataset.id()), path_, "read the type of " + name), H5Tclose);
  if (H5Tget_class(type.id()) != H5T_STRING || H5Tis_variable_str(type.id()) != 0) {
    fail("{}: {}: expected strings of fixed length", path_, name);
  }
  length = H5Tget_size(type.id());
  uint64_t n_bytes = 0;
  if (__builtin_mul_overflow(static_cast<uint64_t>(found.n_elements()), length, &n_bytes) ||
      n_bytes > kMaxStringBytes || n_bytes / kMaxCompression > static_cast<uint64_t>(file_bytes_)) {
    fail("{}: {}: is too large", path_, name);
  }
  std::vector<char> bytes(n_bytes);
  if (n_bytes > 0) {
    check(H5Dread(dataset.id(), type.id(), H5S_ALL, H5S_ALL, H5P_DEFAULT, bytes.data()), path_, "read " + name);
  }
  return bytes;
}

std::string Reader::read_text(const std::string& name) const {
  if (shape(name).rank() != 0) fail("{}: {}: expected one string", path_, name);
  size_t length = 0;
  const std::vector<char> bytes = read_fixed_strings(name, length);
  return {bytes.begin(), bytes.end()};
}

std::vector<std::string> Reader::read_strings(const std::string& name) const {
  if (shape(name).rank() != 1) fail("{}: {}: expected a list of strings", path_, name);
  size_t length = 0;
  const std::vector<char> bytes = read_fixed_strings(name, length);
  std::vector<std::string> strings;
  for (size_t at = 0; at < bytes.size(); at += length) {
    strings.emplace_back(bytes.data() + at, length);
    trim_padding(strings.back());
  }
  return strings;
}

DType Reader::float_type(const std::string& name) const {
  const Handle dataset = open(name);
  const Handle type(check(H5Dget_type(dataset.id()), path_, "read the type of " + name), H5Tclose);
  if (H5Tget_class(type.id()) != H5T_FLOAT) fail("{}: {}: expected floats", path_, name);
  size_t sign, exponent_at, exponent_bits, mantissa_at, mantissa_bits;
  check(H5Tget_fields(type.id(), &sign, &exponent_at, &exponent_bits, &mantissa_at, &mantissa_bits), path_,
        "read the type of " + name);
  if (H5Tget_size(type.id()) != 2) return DType::f32;
  return exponent_bits == 8 ? DType::bf16 : DType::f16;
}

std::optional<Extent> Reader::find_extent(const std::string& name, Type type, const Shape& expected) const {
  const Handle dataset = open(name);
  check_shape(path_ + ": " + name, shape_of(dataset.id(), path_ + ": " + name), expected);
  const Handle found(check(H5Dget_type(dataset.id()), path_, "read the type of " + name), H5Tclose);
  const Handle options(check(H5Dget_create_plist(dataset.id()), path_, "open dataset " + name), H5Pclose);
  if (H5Tequal(found.id(), h5_type(type).id()) <= 0 || H5Pget_layout(options.id()) != H5D_CONTIGUOUS) return {};
  uint64_t n_bytes = 0;
  if (__builtin_mul_overflow(static_cast<uint64_t>(expected.n_elements()), size_of(type), &n_bytes)) {
    fail("{}: {}: shape {} is too large", path_, name, expected.str());
  }
  if (n_bytes == 0) return Extent{};
  const haddr_t offset = H5Dget_offset(dataset.id());
  if (offset == HADDR_UNDEF) fail("{}: {}: has a shape but no data", path_, name);
  const auto end = static_cast<uint64_t>(file_bytes_);
  if (offset > end || n_bytes > end - offset) {
    fail("{}: {}: {} bytes at offset {} lie outside the file's {}; it is damaged", path_, name, n_bytes, offset, end);
  }
  if (offset % size_of(type) != 0) return {};
  return Extent{offset, n_bytes};
}

Extent Reader::extent(const std::string& name, Type type, const Shape& expected) const {
  const std::optional<Extent> found = find_extent(name, type, expected);
  if (!found) {
    fail(
        "{}: {}: expected contiguous, aligned {}; if a program rewrote the file, 'h5repack -l CONTI' or a new build "
        "repairs it",
        path_, name, name_of(type));
  }
  return *found;
}

Tensor Reader::read_floats(const std::string& name, DType dtype, const Shape& expected) const {
  (void)float_type(name);
  const Handle dataset = open_readable(name, expected, squeeze::size_of(dtype));
  Tensor out(dtype, expected);
  const Handle type = h5_type(type_of(dtype));
  if (out.n_bytes() > 0) {
    check(H5Dread(dataset.id(), type.id(), H5S_ALL, H5S_ALL, H5P_DEFAULT, out.data()), path_, "read " + name);
  }
  return out;
}

// ---- Skeleton

Skeleton::Skeleton(const std::string& path, uint64_t alignment) : path_(path) {
  const Handle access = access_options(alignment);
  const Handle creation(H5Pcreate(H5P_FILE_CREATE), H5Pclose);
  group_options_ = Handle(H5Pcreate(H5P_GROUP_CREATE), H5Pclose);
  dataset_options_ = Handle(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  for (const int64_t options : {creation.id(), group_options_.id(), dataset_options_.id()}) {
    check(H5Pset_obj_track_times(options, false), path, "set up");
  }
  H5Pset_layout(dataset_options_.id(), H5D_CONTIGUOUS);
  H5Pset_alloc_time(dataset_options_.id(), H5D_ALLOC_TIME_EARLY);
  H5Pset_fill_time(dataset_options_.id(), H5D_FILL_TIME_NEVER);
  file_ = Handle(check(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, creation.id(), access.id()), path, "create"), H5Fclose);
}

void Skeleton::write_attribute(const std::string& name, int64_t type, const void* value) {
  const Handle space(H5Screate(H5S_SCALAR), H5Sclose);
  const Handle attribute(check(H5Acreate2(file_.id(), name.c_str(), type, space.id(), H5P_DEFAULT, H5P_DEFAULT), path_,
                               "create attribute " + name),
                         H5Aclose);
  check(H5Awrite(attribute.id(), type, value), path_, "write attribute " + name);
}

void Skeleton::attribute(const std::string& name, int64_t value) { write_attribute(name, H5T_STD_I64LE, &value); }
void Skeleton::attribute(const std::string& name, uint64_t value) { write_attribute(name, H5T_STD_U64LE, &value); }
void Skeleton::attribute(const std::string& name, double value) { write_attribute(name, H5T_IEEE_F64LE, &value); }

void Skeleton::attribute(const std::string& name, std::string_view value) {
  const std::string stored = value.empty() ? std::string(1, '\0') : std::string(value);
  write_attribute(name, string_type(stored.size()).id(), stored.data());
}

void Skeleton::create_groups(const std::string& name) {
  for (const std::string& path : group_paths(name)) {
    if (check(H5Lexists(file_.id(), path.c_str(), H5P_DEFAULT), path_, "look up " + path) > 0) continue;
    const Handle group(check(H5Gcreate2(file_.id(), path.c_str(), H5P_DEFAULT, group_options_.id(), H5P_DEFAULT), path_,
                             "create group " + path),
                       H5Gclose);
  }
}

Handle Skeleton::create(const std::string& name, int64_t type, const Handle& space) {
  create_groups(name);
  return {check(H5Dcreate2(file_.id(), name.c_str(), type, space.id(), H5P_DEFAULT, dataset_options_.id(), H5P_DEFAULT),
                path_, "create dataset " + name),
          H5Dclose};
}

void Skeleton::dataset(const std::string& name, Type type, const Shape& shape) {
  (void)create(name, h5_type(type).id(), data_space(shape));
}

void Skeleton::dataset(const std::string& name, std::span<const int32_t> values) {
  const Handle dataset = create(name, H5T_STD_I32LE, data_space({static_cast<int64_t>(values.size())}));
  if (values.empty()) return;
  check(H5Dwrite(dataset.id(), H5T_NATIVE_INT32, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()), path_, "write " + name);
}

void Skeleton::dataset(const std::string& name, std::span<const double> values) {
  const Handle dataset = create(name, H5T_IEEE_F64LE, data_space({static_cast<int64_t>(values.size())}));
  if (values.empty()) return;
  check(H5Dwrite(dataset.id(), H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()), path_,
        "write " + name);
}

void Skeleton::text(const std::string& name, std::string_view value) {
  const Handle type = string_type(std::max<size_t>(1, value.size()));
  const Handle dataset = create(name, type.id(), Handle(H5Screate(H5S_SCALAR), H5Sclose));
  if (value.empty()) return;
  check(H5Dwrite(dataset.id(), type.id(), H5S_ALL, H5S_ALL, H5P_DEFAULT, value.data()), path_, "write " + name);
}

void Skeleton::strings(const std::string& name, const std::vector<std::string>& values) {
  size_t length = 1;
  for (const std::string& value : values) length = std::max(length, value.size());
  std::string padded;
  for (const std::string& value : values) padded.append(value).append(length - value.size(), '\0');
  const Handle type = string_type(length);
  const Handle dataset = create(name, type.id(), data_space({static_cast<int64_t>(values.size())}));
  if (values.empty()) return;
  check(H5Dwrite(dataset.id(), type.id(), H5S_ALL, H5S_ALL, H5P_DEFAULT, padded.data()), path_, "write " + name);
}

void Skeleton::close() {
  check(H5Fflush(file_.id(), H5F_SCOPE_LOCAL), path_, "write the structure");
  group_options_.reset();
  dataset_options_.reset();
  file_.reset();
}

}  // namespace squeeze::h5
