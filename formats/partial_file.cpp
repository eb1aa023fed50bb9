// Create, lock, write, commit, publish.
#include "formats/partial_file.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cassert>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <optional>

#include "formats/journal.hpp"
#include "lib/core/error.hpp"

namespace squeeze {
namespace {

bool exists(const std::string& path) {
  struct stat status {};
  return ::lstat(path.c_str(), &status) == 0;
}

[[noreturn]] void fail_exists(const std::string& path) {
  fail("{}: exists; use --force to replace it, or choose another name", path);
}

}  // namespace

PartialFile::PartialFile(const std::string& path, int n_steps, WriteMode mode,
                         const std::function<void(const std::string&)>& create)
    : path_(path),
      partial_path_(path + ".partial"),
      journal_path_(path + ".partial.state"),
      n_steps_(n_steps),
      force_(mode.force) {
  if (path.empty()) fail("the output file's name is empty");
  if (exists(path) && !mode.force) fail_exists(path);
  open_and_lock();
  std::optional<Journal> journal = mode.resume ? read_journal(journal_path_) : std::nullopt;
  if (!journal) {
    start(create);
    return;
  }
  struct stat status {};
  if (::fstat(fd_.get(), &status) != 0) fail("{}: cannot open: {}", partial_path_, std::strerror(errno));
  n_bytes_ = static_cast<uint64_t>(status.st_size);
  if (journal->n_steps_done > n_steps_) {
    fail("{}: was begun with another number of layers; run again without --resume", partial_path_);
  }
  resumed_ = true;
  n_steps_done_ = journal->n_steps_done;
  state_ = std::move(journal->state);
}

// The lock belongs to the file, not to its name: it is only worth something while the name still leads to that file.
void PartialFile::open_and_lock() {
  fd_ = FileDescriptor(partial_path_, O_RDWR | O_CREAT);
  struct stat ours {
  }, named{};
  const bool locked = ::flock(fd_.get(), LOCK_EX | LOCK_NB) == 0;
  if (!locked && errno != EWOULDBLOCK) fail("{}: cannot lock: {}", partial_path_, std::strerror(errno));
  if (!locked || ::fstat(fd_.get(), &ours) != 0 || ::stat(partial_path_.c_str(), &named) != 0 ||
      ours.st_ino != named.st_ino || ours.st_dev != named.st_dev) {
    fail("{}: another process is writing it", partial_path_);
  }
}

void PartialFile::start(const std::function<void(const std::string&)>& create) {
  remove_journal(journal_path_);
  try {
    create(partial_path_);
    struct stat status {};
    if (::fstat(fd_.get(), &status) != 0) fail("{}: cannot open: {}", partial_path_, std::strerror(errno));
    n_bytes_ = static_cast<uint64_t>(status.st_size);
    const int error = ::posix_fallocate(fd_.get(), 0, status.st_size);
    if (error != 0) fail("{}: cannot reserve {} bytes: {}", partial_path_, n_bytes_, std::strerror(error));
    if (::fsync(fd_.get()) != 0) fail("{}: cannot write: {}", partial_path_, std::strerror(errno));
    write_journal(journal_path_, 0, {});
  } catch (...) {
    ::unlink(partial_path_.c_str());
    throw;
  }
}

void PartialFile::write(uint64_t offset, const void* data, size_t n_bytes) {
  if (offset > n_bytes_ || n_bytes > n_bytes_ - offset) {
    fail("{}: {} bytes at offset {} lie outside its {} bytes", partial_path_, n_bytes, offset, n_bytes_);
  }
  write_all(fd_.get(), data, n_bytes, offset, partial_path_);
}

void PartialFile::begin_step(int step) {
  if (step < 0 || step >= n_steps_ || step > n_steps_done_) {
    fail("{}: layer {} of {} cannot follow the {} that were written", partial_path_, step, n_steps_, n_steps_done_);
  }
  if (step < n_steps_done_) write_journal(journal_path_, step, {});
  n_steps_done_ = step;
}

void PartialFile::end_step(int step, TensorView state) {
  assert(step == n_steps_done_);
  if (::fdatasync(fd_.get()) != 0) fail("{}: cannot write: {}", partial_path_, std::strerror(errno));
  write_journal(journal_path_, step + 1, state);
  n_steps_done_ = step + 1;
}

void PartialFile::finish() {
  if (n_steps_done_ != n_steps_) {
    fail("{}: only {} of {} layers were written", partial_path_, n_steps_done_, n_steps_);
  }
  if (::fsync(fd_.get()) != 0) fail("{}: cannot write: {}", partial_path_, std::strerror(errno));
  publish();
  remove_journal(journal_path_);
  const FileDescriptor folder(folder_of(path_), O_RDONLY | O_DIRECTORY);
  (void)::fsync(folder.get());  // not every file system can; the file itself is on the disk
}

void PartialFile::publish() {
  const char* from = partial_path_.c_str();
  const char* to = path_.c_str();
  if (!force_) {
    if (::renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0) return;
    if (errno == EEXIST) fail("{}: appeared while it was being written; the new file is {}", path_, partial_path_);
    const bool unsupported = errno == EINVAL || errno == ENOSYS;
    if (!unsupported) fail("{}: cannot rename to {}: {}", partial_path_, path_, std::strerror(errno));
    if (exists(path_)) fail("{}: appeared while it was being written; the new file is {}", path_, partial_path_);
  }
  if (std::rename(from, to) != 0) fail("{}: cannot rename to {}: {}", partial_path_, path_, std::strerror(errno));
}

}  // namespace squeeze
