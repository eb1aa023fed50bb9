// parallel_for over OpenMP.
#include "lib/core/parallel.hpp"

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <exception>

#include "lib/core/error.hpp"

namespace squeeze {
namespace {

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

void parallel_for(int64_t n, const std::function<void(int64_t)>& body) {
  const int team = static_cast<int>(std::min<int64_t>(n_threads(), n));
  if (team <= 1 || omp_in_parallel()) {
    for (int64_t i = 0; i < n; ++i) body(i);
    return;
  }
  std::exception_ptr first_error;
  std::atomic<bool> stopped = false;
#pragma omp parallel for schedule(dynamic, 1) num_threads(team)
  for (int64_t i = 0; i < n; ++i) {
    if (stopped.load(std::memory_order_relaxed)) continue;
    try {
      body(i);
    } catch (...) {
#pragma omp critical(squeeze_parallel_error)
      if (!first_error) first_error = std::current_exception();
      stopped = true;
    }
  }
  if (first_error) std::rethrow_exception(first_error);
}

void parallel_blocks(int64_t n, int64_t block, const std::function<void(int64_t, int64_t)>& body) {
  const int64_t n_blocks = (n + block - 1) / block;
  parallel_for(n_blocks, [&](int64_t i) { body(i * block, std::min(n, (i + 1) * block)); });
}

}  // namespace squeeze
