// The fixed text: files, folders and standard input, in the order given.
#pragma once

#include <string>
#include <vector>

namespace squeeze {

struct SourceText {
  std::string name;  // the path as given, or as found below a folder that was given
  std::string text;  // valid UTF-8
};

// A path is a file, "-" (standard input, once) or a folder: its text files, recursively, sorted by path. In folders,
// hidden files and files with a NUL byte among their first 1024 are left out, and each folder is entered once, however
// many links lead to it. Throws if a file cannot be read or is not UTF-8 (with the byte), or if there is no text.
std::vector<SourceText> read_context(const std::vector<std::string>& paths);

// One file, or "-" (standard input). Throws if it cannot be read, is empty or is not UTF-8.
std::string read_document(const std::string& path);

}  // namespace squeeze
