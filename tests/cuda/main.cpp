// Runs every case: on the device, or in the emulation under each of its settings. Returns 77 (skipped) without a
// device.
#include <cstdio>
#include <cstring>
#include <exception>

#include "tests/cuda/cases.hpp"
#if defined(SQUEEZE_EMULATED)
#include "kernels/cuda/emulated/simt.hpp"
#else
#include "kernels/cuda/cuda.hpp"
#endif

namespace squeeze::cuda_tests {
namespace {

std::vector<Case> all_cases() {
  std::vector<Case> all;
  for (const auto& cases : {attend_decode_cases(), lookup_cases(), sketch_lookup_cases(), bench_call_cases(),
                            kmeans_cases(), attend_prefill_cases(), block_lookup_cases(), forward_ops_cases(),
                            matmul_cases(), row_cache_cases(), stream_cases()})
    all.insert(all.end(), cases.begin(), cases.end());
  return all;
}

// Returns the number of cases that failed.
int run_all(const std::vector<Case>& cases, const char* filter, const char* setting) {
  int n_run = 0, n_failed = 0;
  for (const Case& one : cases) {
    if (filter && one.name.find(filter) == std::string::npos) continue;
    ++n_run;
    try {
      one.run();
    } catch (const std::exception& error) {
      ++n_failed;
      std::printf("FAILED %s: %s\n", one.name.c_str(), error.what());
    }
  }
  std::printf("%s: %d cases, %d failed\n", setting, n_run, n_failed);
  return n_failed + (n_run == 0);
}

}  // namespace
}  // namespace squeeze::cuda_tests

int main(int argc, char** argv) {
  using namespace squeeze;
  if (argc > 2 || (argc == 2 && std::strcmp(argv[1], "--help") == 0)) {
    std::printf("usage: %s [PART OF A CASE'S NAME]\n", argv[0]);
    return argc > 2 ? 2 : 0;
  }
  const char* filter = argc == 2 ? argv[1] : nullptr;
  const std::vector<cuda_tests::Case> cases = cuda_tests::all_cases();
  int n_failed = 0;
#if defined(SQUEEZE_EMULATED)
  for (const bool late : {true, false}) {
    for (const bool ascending : {true, false}) {
      emulated::settings() = {late, ascending};
      const std::string setting = std::string("emulated, copies land ") + (late ? "late" : "early") + ", threads " +
                                  (ascending ? "ascend" : "descend");
      n_failed += cuda_tests::run_all(cases, filter, setting.c_str());
    }
  }
#else
  if (const char* problem = cuda_problem()) {
    std::printf("skipped: %s\n", problem);
    return 77;
  }
  n_failed = cuda_tests::run_all(cases, filter, "device");
#endif
  return n_failed ? 1 : 0;
}
