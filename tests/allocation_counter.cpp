// With AddressSanitizer by its hooks; without it in the place of glibc's own functions, which do the work.
#include "tests/allocation_counter.hpp"

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdlib>

#if defined(__SANITIZE_ADDRESS__)
// As in <sanitizer/allocator_interface.h>, which GCC does not always bring.
extern "C" int __sanitizer_install_malloc_and_free_hooks(void (*on_malloc)(const volatile void*, size_t),
                                                         void (*on_free)(const volatile void*));
#endif

namespace {

std::atomic<int64_t> n_calls = 0;

#if defined(__SANITIZE_ADDRESS__)
void count_malloc(const volatile void*, size_t) { ++n_calls; }
void ignore_free(const volatile void*) {}
const bool counts = __sanitizer_install_malloc_and_free_hooks(count_malloc, ignore_free) > 0;
#elif defined(__GLIBC__)
constexpr bool counts = true;
#else
constexpr bool counts = false;
#endif

}  // namespace

#if !defined(__SANITIZE_ADDRESS__) && defined(__GLIBC__)
extern "C" {
void* __libc_malloc(size_t size);
void* __libc_calloc(size_t n, size_t size);
void* __libc_realloc(void* old, size_t size);
void* __libc_memalign(size_t alignment, size_t size);

void* malloc(size_t size) noexcept {
  ++n_calls;
  return __libc_malloc(size);
}
void* calloc(size_t n, size_t size) noexcept {
  ++n_calls;
  return __libc_calloc(n, size);
}
void* realloc(void* old, size_t size) noexcept {
  ++n_calls;
  return __libc_realloc(old, size);
}
void* aligned_alloc(size_t alignment, size_t size) noexcept {
  ++n_calls;
  return __libc_memalign(alignment, size);
}
void* memalign(size_t alignment, size_t size) noexcept {
  ++n_calls;
  return __libc_memalign(alignment, size);
}
int posix_memalign(void** out, size_t alignment, size_t size) noexcept {
  ++n_calls;
  *out = __libc_memalign(alignment, size);
  return *out ? 0 : ENOMEM;
}
}
#endif

namespace squeeze {

bool counts_allocations() { return counts; }
int64_t n_allocations() { return n_calls; }

}  // namespace squeeze
