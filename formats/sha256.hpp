// SHA-256 of a sequence of byte strings.
#pragma once

#include <memory>
#include <string>
#include <string_view>

namespace squeeze {

class Sha256 {
 public:
  Sha256();
  ~Sha256();
  void add(std::string_view bytes);
  std::string hex();  // of everything added; ends the use of this

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace squeeze
