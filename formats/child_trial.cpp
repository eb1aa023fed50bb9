// fork and wait.
#include "formats/child_trial.hpp"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>

#include "lib/core/error.hpp"

namespace squeeze {
namespace {

constexpr unsigned kMaxSeconds = 600;

// Silent, gone with its parent, without a core file, and without the clean-up of the parent's objects.
[[noreturn]] void run_child(const std::function<void()>& body) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // it holds the parent's file locks
  const struct rlimit no_core {};
  ::setrlimit(RLIMIT_CORE, &no_core);
  const int null = ::open("/dev/null", O_WRONLY);
  if (null >= 0) ::dup2(null, STDERR_FILENO);
  for (const int signal : {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGALRM}) std::signal(signal, SIG_DFL);
  ::alarm(kMaxSeconds);
  try {
    body();
  } catch (...) {  // the caller meets it again
  }
  ::_exit(0);
}

}  // namespace

void try_in_child(const std::string& path, const std::function<void()>& body) {
  const pid_t child = ::fork();
  if (child < 0) fail("{}: cannot start a process to open it: {}", path, std::strerror(errno));
  if (child == 0) run_child(body);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) fail("{}: cannot wait for the process that opens it: {}", path, std::strerror(errno));
  }
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) fail("{}: is damaged; HDF5 crashes on it", path);
}

}  // namespace squeeze
