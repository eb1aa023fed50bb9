// A team of waiting threads that help the caller. The caller never waits for a thread that has not begun to help, so a
// busy machine costs at most the parallelism, not the time slices of threads that are late (as a barrier would). Only
// the loop that creates threads waits until they have begun: a process that forks (formats/child_trial.hpp) while a
// thread is half started may have a child that waits for ever for a lock, an allocator's say, that the thread held.
#include "lib/core/parallel.hpp"

#include <omp.h>
#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "lib/core/error.hpp"

namespace squeeze {
namespace {

thread_local bool in_team = false;  // inside a body: nested loops run on the calling thread

// The cores that threads are pinned to, the caller's first; empty: none is.
std::vector<int>& pinned_cores() {
  static std::vector<int> cores;
  return cores;
}

void pin_to(size_t thread) {
  const std::vector<int>& cores = pinned_cores();
  if (cores.empty()) return;
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(static_cast<size_t>(cores[thread % cores.size()]), &one);
  (void)pthread_setaffinity_np(pthread_self(), sizeof one, &one);  // a core that went offline: runs anywhere
}

struct Job {
  LoopBody body;
  int64_t n;
  std::atomic<int64_t> next = 0;
  int n_helpers = 0;  // threads inside; guarded by the team's mutex
  int max_helpers = 0;
  std::exception_ptr error = {};  // guarded by the team's mutex
};

class Team {
 public:
  ~Team() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  // False if another thread is using the team.
  bool run(Job& job) {
    {
      std::unique_lock lock(mutex_);
      if (job_) return false;
      while (std::ssize(threads_) < job.max_helpers)
        threads_.emplace_back([this, i = threads_.size() + 1] {
          pin_to(i);
          help();
        });
      job_ = &job;
      generation_.fetch_add(1, std::memory_order_release);
      begun_.wait(lock, [&] { return n_begun_ == std::ssize(threads_); });
    }
    wake_.notify_all();
    work(job);
    std::unique_lock lock(mutex_);
    job_ = nullptr;
    idle_.wait(lock, [&] { return job.n_helpers == 0; });
    return true;
  }

 private:
  void work(Job& job) {
    in_team = true;
    for (int64_t i; (i = job.next.fetch_add(1, std::memory_order_relaxed)) < job.n;) {
      try {
        job.body(i);
      } catch (...) {
        job.next.store(job.n, std::memory_order_relaxed);
        const std::lock_guard lock(mutex_);
        if (!job.error) job.error = std::current_exception();
      }
    }
    in_team = false;
  }

  // Loops often follow one another closely: looking around for some microseconds is cheaper than sleeping.
  void look_for_work(uint64_t seen) const {
    for (int i = 0; i < 1000 && generation_.load(std::memory_order_acquire) == seen; ++i) {
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
    }
  }

  void help() {
    omp_set_num_threads(1);
    uint64_t seen = 0;
    std::unique_lock lock(mutex_);
    ++n_begun_;
    begun_.notify_all();
    while (true) {
      lock.unlock();
      look_for_work(seen);
      lock.lock();
      wake_.wait(lock, [&] { return stopping_ || (job_ && generation_ != seen); });
      if (stopping_) return;
      seen = generation_;
      Job& job = *job_;
      if (job.n_helpers == job.max_helpers) continue;
      ++job.n_helpers;
      lock.unlock();
      work(job);
      lock.lock();
      if (--job.n_helpers == 0) idle_.notify_all();  // another caller may be waiting for its own helpers
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, idle_, begun_;
  std::vector<std::thread> threads_;
  std::ptrdiff_t n_begun_ = 0;  // of threads_
  Job* job_ = nullptr;
  std::atomic<uint64_t> generation_ = 0;
  bool stopping_ = false;
};

std::atomic<int>& team_size() {
  static std::atomic<int> size = [] {
    const int cores = omp_get_num_procs();
    omp_set_num_threads(1);
    omp_set_max_active_levels(1);
    return cores;
  }();
  return size;
}

}  // namespace

int n_threads() { return team_size(); }

void set_threads(int n) {
  if (n < 1) fail("the number of threads must be at least 1, found {}", n);
  team_size() = n;
}

void pin_threads() {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) fail("the cores of this process cannot be read");
  std::vector<int> cores;
  for (int i = 0; i < CPU_SETSIZE; ++i) {
    if (CPU_ISSET(static_cast<size_t>(i), &allowed)) cores.push_back(i);
  }
  if (std::ssize(cores) < n_threads()) {
    fail("{} threads cannot be pinned: this process may use {} cores", n_threads(), cores.size());
  }
  pinned_cores() = std::move(cores);
  pin_to(0);
}

void parallel_for(int64_t n, LoopBody body) {
  static Team team;
  const auto n_wanted = static_cast<int>(std::min<int64_t>(n_threads(), n));
  if (n_wanted > 1 && !in_team) {
    Job job{body, n};
    job.max_helpers = n_wanted - 1;
    if (team.run(job)) {
      if (job.error) std::rethrow_exception(job.error);
      return;
    }
  }
  for (int64_t i = 0; i < n; ++i) body(i);
}

}  // namespace squeeze
