// Threads: a fixed-size team, and a parallel loop whose result does not depend on the number of threads.
#pragma once

#include <algorithm>
#include <cstdint>

namespace squeeze {

// The number of threads that parallel_for uses. The default is the number of cores this process may run on.
int n_threads();

// Libraries that use OpenMP themselves (oneDNN) are held to one thread, so that a call of theirs inside or
// outside parallel_for does not depend on n either. Throws if n < 1.
void set_threads(int n);

// Keeps the calling thread, and each thread that parallel_for starts from now on, on a core of its own among those that
// this process may run on. Throws if there are fewer than n_threads() of them. Call it before the first loop.
void pin_threads();

// Borrows the body of a loop for as long as the loop runs: unlike std::function it never allocates.
class LoopBody {
 public:
  template <class Body>
  LoopBody(const Body& body)
      : body_(&body), call_([](const void* own, int64_t i) { (*static_cast<const Body*>(own))(i); }) {}
  void operator()(int64_t i) const { call_(body_, i); }

 private:
  const void* body_;
  void (*call_)(const void* body, int64_t i);
};

// Calls body(i) for every i in [0, n), in any order, on up to n_threads() threads; rethrows the first exception after
// all threads have stopped. A call from inside another parallel_for runs on the calling thread.
void parallel_for(int64_t n, LoopBody body);

// Calls body(begin, end) for consecutive blocks of `block` indices (the last may be shorter). The partition depends on
// n and block only.
template <class Body>
void parallel_blocks(int64_t n, int64_t block, const Body& body) {
  parallel_for((n + block - 1) / block, [&](int64_t i) { body(i * block, std::min(n, (i + 1) * block)); });
}

}  // namespace squeeze
