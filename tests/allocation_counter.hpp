// Counts the heap allocations of the whole process, all threads and libraries included.
#pragma once

#include <cstdint>

namespace squeeze {

// Whether this build can count; false: the C library is not known.
bool counts_allocations();
// So far: calls of malloc and its kin, which operator new and the tensors come down to.
int64_t n_allocations();

}  // namespace squeeze
