// mmap of a whole file.
#include "formats/mapped_file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "lib/core/error.hpp"

namespace squeeze {

MappedFile::MappedFile(const std::string& path) : path_(path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail("{}: cannot open: {}", path, std::strerror(errno));
  struct stat status {};
  void* mapped = nullptr;
  const bool regular = ::fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
  if (regular) n_bytes_ = static_cast<size_t>(status.st_size);
  if (n_bytes_ > 0) mapped = ::mmap(nullptr, n_bytes_, PROT_READ, MAP_SHARED, fd, 0);
  const int map_error = errno;
  ::close(fd);
  if (!regular) fail("{}: is not a regular file", path);
  if (mapped == MAP_FAILED) fail("{}: cannot map {} bytes: {}", path, n_bytes_, std::strerror(map_error));
  if (mapped) (void)::madvise(mapped, n_bytes_, MADV_HUGEPAGE);  // fewer address translations, where the system can
  data_ = static_cast<const char*>(mapped);
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<char*>(data_), n_bytes_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      n_bytes_(std::exchange(other.n_bytes_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(n_bytes_, other.n_bytes_);
  return *this;
}

const char* MappedFile::at(size_t offset, size_t n_bytes) const {
  if (offset > n_bytes_ || n_bytes > n_bytes_ - offset) {
    fail("{}: {} bytes at offset {} lie outside the file's {} bytes; it is damaged", path_, n_bytes, offset, n_bytes_);
  }
  return data_ + offset;
}

}  // namespace squeeze
