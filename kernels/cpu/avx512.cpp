// The avx512 kernels.
#include "kernels/cpu/tables.hpp"
namespace squeeze {
extern const Kernels kAvx512Kernels = {"avx512", nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr};
}
