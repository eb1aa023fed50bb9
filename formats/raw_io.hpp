// POSIX file descriptors and whole writes, with errors that name the file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace squeeze {

class FileDescriptor {
 public:
  FileDescriptor() = default;
  FileDescriptor(const std::string& path, int flags);  // throws if it cannot be opened
  ~FileDescriptor();
  FileDescriptor(FileDescriptor&& other) noexcept;
  FileDescriptor& operator=(FileDescriptor&& other) noexcept;

  int get() const { return fd_; }

 private:
  int fd_ = -1;
};

// Writes every byte at `offset`, or throws.
void write_all(int fd, const void* data, size_t n_bytes, uint64_t offset, const std::string& path);

// The folder that a path lies in: "." if it has none.
std::string folder_of(const std::string& path);

}  // namespace squeeze
