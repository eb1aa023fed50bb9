// A whole file, mapped read-only.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace squeeze {

class MappedFile {
 public:
  // Throws if the file cannot be opened or is not a regular file. An empty file maps to no bytes.
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  std::span<const char> bytes() const { return {data_, n_bytes_}; }
  // The address of `n_bytes` at `offset`; throws if they are not all in the file.
  const char* at(size_t offset, size_t n_bytes) const;

 private:
  std::string path_;
  const char* data_ = nullptr;
  size_t n_bytes_ = 0;
};

}  // namespace squeeze
