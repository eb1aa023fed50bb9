// open, pwrite and close.
#include "formats/raw_io.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "lib/core/error.hpp"

namespace squeeze {

FileDescriptor::FileDescriptor(const std::string& path, int flags)
    : fd_(::open(path.c_str(), flags | O_CLOEXEC, 0666)) {
  if (fd_ < 0) fail("{}: cannot open: {}", path, std::strerror(errno));
}

FileDescriptor::~FileDescriptor() {
  if (fd_ >= 0) ::close(fd_);
}

FileDescriptor::FileDescriptor(FileDescriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}

FileDescriptor& FileDescriptor::operator=(FileDescriptor&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

void write_all(int fd, const void* data, size_t n_bytes, uint64_t offset, const std::string& path) {
  const char* at = static_cast<const char*>(data);
  while (n_bytes > 0) {
    const ssize_t written = ::pwrite(fd, at, n_bytes, static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) fail("{}: cannot write: {}", path, written < 0 ? std::strerror(errno) : "nothing was written");
    at += written;
    offset += static_cast<uint64_t>(written);
    n_bytes -= static_cast<size_t>(written);
  }
}

std::string folder_of(const std::string& path) {
  const size_t slash = path.find_last_of('/');
  return slash == std::string::npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
}

}  // namespace squeeze
