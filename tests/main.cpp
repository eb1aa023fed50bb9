// The unit tests' main function.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>

#include "kernels/kernels.hpp"

int main(int argc, char** argv) {
  if (const char* isa = squeeze::invalid_isa_request()) {
    std::fprintf(stderr, "unit_tests: skipped: this machine cannot run SQUEEZE_ISA=%s\n", isa);
    return 77;  // ctest's kernels.<isa> entries read it as skipped, everything else as failed
  }
  doctest::Context context(argc, argv);
  return context.run();
}

#if defined(__SANITIZE_ADDRESS__)
// A test asks for more memory than there is: the answer is to be null, as without the sanitizer.
extern "C" const char* __asan_default_options() { return "allocator_may_return_null=1"; }
#endif
