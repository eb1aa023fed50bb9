// Journal layout: JournalHeader, then the bytes of the state tensor. Host byte order: it never leaves the machine.
#include "formats/journal.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "formats/mapped_file.hpp"
#include "formats/raw_io.hpp"
#include "lib/core/error.hpp"

namespace squeeze {
namespace {

constexpr char kMagic[8] = {'S', 'Q', 'Z', 'S', 'T', 'A', 'T', 'E'};
constexpr uint32_t kVersion = 1;

struct JournalHeader {
  char magic[8];
  uint32_t version;
  int32_t n_steps_done;
  uint32_t dtype;
  int32_t rank;
  int64_t sizes[Shape::kMaxRank];
  uint64_t checksum;  // of the header before it and the state
};
static_assert(sizeof(JournalHeader) == 64);

uint64_t mix(uint64_t hash, const char* data, size_t n_bytes) {
  while (n_bytes > 0) {
    uint64_t word = 0;
    const size_t n = n_bytes < sizeof word ? n_bytes : sizeof word;
    std::memcpy(&word, data, n);
    hash = (hash ^ word ^ n) * 0x9e3779b97f4a7c15u;
    hash ^= hash >> 29;
    data += n;
    n_bytes -= n;
  }
  return hash;
}

uint64_t checksum_of(const JournalHeader& header, const void* state, size_t n_bytes) {
  const uint64_t hash = mix(1, reinterpret_cast<const char*>(&header), offsetof(JournalHeader, checksum));
  return mix(hash, static_cast<const char*>(state), n_bytes);
}

std::string aside(const std::string& path) { return path + ".new"; }

}  // namespace

std::optional<Journal> read_journal(const std::string& path) {
  if (::access(path.c_str(), F_OK) != 0) return {};
  const MappedFile file(path);
  JournalHeader header;
  constexpr auto kAdvice = "run again without --resume";
  if (file.bytes().size() < sizeof header) fail("{}: is damaged; {}", path, kAdvice);
  std::memcpy(&header, file.bytes().data(), sizeof header);
  if (std::memcmp(header.magic, kMagic, sizeof kMagic) != 0) fail("{}: is not a journal; {}", path, kAdvice);
  if (header.version != kVersion) {
    fail("{}: expected version {}, found {}; {}", path, kVersion, header.version, kAdvice);
  }
  const auto state = file.bytes().subspan(sizeof header);
  if (header.checksum != checksum_of(header, state.data(), state.size()) || header.n_steps_done < 0 ||
      header.rank < 0 || header.rank > Shape::kMaxRank || header.dtype > static_cast<uint32_t>(DType::bf16)) {
    fail("{}: is damaged; {}", path, kAdvice);
  }
  Journal journal{header.n_steps_done, {}};
  if (header.rank == 0) return journal;
  journal.state = Tensor(static_cast<DType>(header.dtype),
                         Shape(std::span<const int64_t>(header.sizes, static_cast<size_t>(header.rank))));
  if (journal.state.n_bytes() != state.size()) fail("{}: is damaged; {}", path, kAdvice);
  std::memcpy(journal.state.data(), state.data(), state.size());
  return journal;
}

void write_journal(const std::string& path, int n_steps_done, TensorView state) {
  JournalHeader header{};
  std::memcpy(header.magic, kMagic, sizeof kMagic);
  header.version = kVersion;
  header.n_steps_done = n_steps_done;
  const size_t n_bytes = state.data() ? state.n_bytes() : 0;
  if (n_bytes > 0) {
    header.dtype = static_cast<uint32_t>(state.dtype());
    header.rank = state.shape().rank();
    for (int i = 0; i < header.rank; ++i) header.sizes[i] = state.size(i);
  }
  header.checksum = checksum_of(header, state.data(), n_bytes);
  const std::string fresh = aside(path);
  const FileDescriptor fd(fresh, O_WRONLY | O_CREAT | O_TRUNC);
  try {
    write_all(fd.get(), &header, sizeof header, 0, fresh);
    write_all(fd.get(), state.data(), n_bytes, sizeof header, fresh);
    if (::fdatasync(fd.get()) != 0) fail("{}: cannot write: {}", fresh, std::strerror(errno));
  } catch (...) {
    ::unlink(fresh.c_str());
    throw;
  }
  if (std::rename(fresh.c_str(), path.c_str()) != 0)
    fail("{}: cannot rename to {}: {}", fresh, path, std::strerror(errno));
}

void remove_journal(const std::string& path) {
  ::unlink(aside(path).c_str());
  ::unlink(path.c_str());
}

}  // namespace squeeze
