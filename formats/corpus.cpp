// Reading files and folders of text.
#include "formats/corpus.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <set>
#include <utility>

#include "formats/raw_io.hpp"
#include "lib/core/error.hpp"
#include "lib/core/utf8.hpp"

namespace squeeze {
namespace {

namespace fs = std::filesystem;

constexpr size_t kBinaryProbe = 1024;

std::string read_all(int fd, const std::string& name) {
  constexpr size_t kStep = size_t{1} << 20;
  std::string text;
  for (size_t size = 0;;) {
    text.resize(size + kStep);
    const ssize_t n = ::read(fd, text.data() + size, kStep);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail("{}: cannot read: {}", name, std::strerror(errno));
    size += static_cast<size_t>(n);
    text.resize(size);
    if (n == 0) return text;
  }
}

std::string read_file(const std::string& path) {
  const FileDescriptor fd(path, O_RDONLY);
  return read_all(fd.get(), path);
}

std::string read_stream() { return read_all(STDIN_FILENO, "standard input"); }

bool looks_binary(std::string_view text) { return text.substr(0, kBinaryProbe).find('\0') != std::string_view::npos; }

class Corpus {
 public:
  void add(const std::string& path) {
    if (path == "-") return add_stream();
    struct stat status {};
    if (::stat(path.c_str(), &status) != 0) fail("{}: cannot open: {}", path, std::strerror(errno));
    if (!S_ISDIR(status.st_mode)) return add_text(path, read_file(path));
    const size_t n_before = texts_.size();
    add_folder(path, {status.st_dev, status.st_ino});
    if (texts_.size() == n_before) fail("{}: this folder holds no text files", path);
  }

  std::vector<SourceText> take() { return std::move(texts_); }

 private:
  using Identity = std::pair<dev_t, ino_t>;

  void add_stream() {
    if (stream_read_) fail("-: standard input was named twice");
    stream_read_ = true;
    add_text("-", read_stream());
  }

  void add_text(const std::string& name, std::string text) {
    if (const auto at = first_invalid_utf8(text)) {
      fail("{}: is not UTF-8 at byte {}; convert it, or leave it out", name, *at);
    }
    texts_.push_back({name, std::move(text)});
  }

  void add_folder(const std::string& folder, Identity identity) {
    if (!entered_.insert(identity).second) return;
    std::error_code error;
    std::vector<std::string> entries;
    for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
      const std::string name = it->path().filename().string();
      if (name.front() != '.') entries.push_back((fs::path(folder) / name).string());
    }
    if (error) fail("{}: cannot read the folder: {}", folder, error.message());
    std::sort(entries.begin(), entries.end());
    for (const std::string& entry : entries) add_entry(entry);
  }

  void add_entry(const std::string& path) {
    struct stat status {};
    if (::stat(path.c_str(), &status) != 0) {
      if (errno == ENOENT || errno == ELOOP) return;  // a link that leads nowhere
      fail("{}: cannot open: {}", path, std::strerror(errno));
    }
    if (S_ISDIR(status.st_mode)) return add_folder(path, {status.st_dev, status.st_ino});
    if (!S_ISREG(status.st_mode)) return;
    std::string text = read_file(path);
    if (!looks_binary(text)) add_text(path, std::move(text));
  }

  std::vector<SourceText> texts_;
  std::set<Identity> entered_;
  bool stream_read_ = false;
};

}  // namespace

std::vector<SourceText> read_context(const std::vector<std::string>& paths) {
  if (paths.empty()) fail("no context was given");
  Corpus corpus;
  for (const std::string& path : paths) corpus.add(path);
  std::vector<SourceText> texts = corpus.take();
  const bool empty = std::all_of(texts.begin(), texts.end(), [](const SourceText& t) { return t.text.empty(); });
  if (empty) fail("{}: the context is empty", paths.front());
  return texts;
}

std::string read_document(const std::string& path) {
  std::string text = path == "-" ? read_stream() : read_file(path);
  if (text.empty()) fail("{}: the file is empty: expected text", path);
  check_utf8(text, path);
  return text;
}

}  // namespace squeeze
