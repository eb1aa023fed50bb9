// The avx2 kernels.
#include "kernels/cpu/tables.hpp"
namespace squeeze {
extern const Kernels kAvx2Kernels = {"avx2", nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr};
}
