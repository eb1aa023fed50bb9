// Tests of parallel_for: every index once, errors, nested loops, several callers at once, and processes that fork.
#include "lib/core/parallel.hpp"

#include <doctest/doctest.h>
#include <sched.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "formats/child_trial.hpp"
#include "lib/core/error.hpp"

namespace squeeze {
namespace {

struct ThreadsGuard {
  int before = n_threads();
  ~ThreadsGuard() { set_threads(before); }
};

// Whether a loop over n indices visits each once.
bool visits_all(int64_t n) {
  std::vector<std::atomic<int>> visits(static_cast<size_t>(n));
  parallel_for(n, [&](int64_t i) { ++visits[static_cast<size_t>(i)]; });
  bool once = true;
  for (const auto& count : visits) once = once && count == 1;
  return once;
}

}  // namespace

TEST_SUITE("parallel") {
  TEST_CASE("every index once, for any number of threads") {
    const ThreadsGuard guard;
    for (const int threads : {1, 2, 3, 8}) {
      set_threads(threads);
      for (const int64_t n : {0, 1, 2, 7, 1000}) CHECK(visits_all(n));
    }
    CHECK_THROWS_AS(set_threads(0), Error);
  }

  TEST_CASE("pinned threads keep one core each; more threads than cores are refused") {
    const ThreadsGuard guard;
    cpu_set_t before, now;
    REQUIRE(sched_getaffinity(0, sizeof before, &before) == 0);
    pin_threads();
    CHECK(sched_getaffinity(0, sizeof now, &now) == 0);
    CHECK(CPU_COUNT(&now) == 1);
    CHECK(visits_all(1000));
    CHECK(sched_setaffinity(0, sizeof before, &before) == 0);
    set_threads(CPU_COUNT(&before) + 1);
    CHECK_THROWS_WITH_AS(pin_threads(), doctest::Contains("cannot be pinned"), Error);
  }

  TEST_CASE("blocks cover the range, the last is shorter") {
    std::vector<std::atomic<int>> visits(100);
    std::atomic<int64_t> shortest = 100;
    parallel_blocks(100, 30, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) ++visits[static_cast<size_t>(i)];
      if (end - begin < 30) shortest = end - begin;
    });
    for (const auto& count : visits) CHECK(count == 1);
    CHECK(shortest == 10);
  }

  TEST_CASE("the first error reaches the caller, and the next loop runs") {
    const ThreadsGuard guard;
    for (const int threads : {1, 4}) {
      set_threads(threads);
      CHECK_THROWS_WITH_AS(parallel_for(100, [](int64_t i) { fail("at {}", i); }), doctest::Contains("at "), Error);
      CHECK(visits_all(100));
    }
  }

  TEST_CASE("loops inside loops run where they are called") {
    const ThreadsGuard guard;
    set_threads(4);
    std::atomic<int> total = 0;
    parallel_for(10, [&](int64_t) {
      const auto self = std::this_thread::get_id();
      parallel_for(10, [&](int64_t) { total += std::this_thread::get_id() == self; });
    });
    CHECK(total == 100);
  }

  TEST_CASE("several callers at once all come to their end") {  // helpers that end late, and in another order
    const ThreadsGuard guard;
    set_threads(4);
    std::atomic<int> n_right = 0;
    const auto call = [&](int64_t caller) {
      const auto self = std::this_thread::get_id();
      for (int64_t round = 0; round < 1000; ++round) {
        std::atomic<int64_t> sum = 0;
        parallel_for(3, [&](int64_t i) {
          const bool late = (round * 7 + caller * 5 + i * 3) % 11 == 0;
          const int64_t us = std::this_thread::get_id() == self ? 20 : late ? 1500 : 60;
          std::this_thread::sleep_for(std::chrono::microseconds(us));
          sum += i + 1;
        });
        n_right += sum == 6;
      }
    };
    std::vector<std::thread> callers;
    for (int64_t i = 0; i < 4; ++i) callers.emplace_back(call, i);
    for (std::thread& caller : callers) caller.join();
    CHECK(n_right == 4 * 1000);
  }

  TEST_CASE("a process that forks after a loop that started threads has a child that can allocate memory") {
    const ThreadsGuard guard;
    for (int threads = 2; threads <= 40; ++threads) {  // each loop starts one thread more
      set_threads(threads);
      CHECK(visits_all(threads));
      CHECK_NOTHROW(try_in_child("x", [] {
        for (int i = 0; i < 100; ++i) (void)std::make_unique<std::string>(static_cast<size_t>(i + 1) * 100, 'x');
      }));
    }
  }
}

}  // namespace squeeze
