// The AMX kernels (tiles of bf16, beside AVX-512 F, BW, DQ and VL): attend only; the rest is AVX-512's.
#include "kernels/cpu/simd/attend_amx.hpp"
#include "kernels/cpu/tables.hpp"

namespace squeeze {
namespace {

inline void attend(const AttendArgs& a) {
  if (a.dtype == DType::bf16 && a.dim > 0 && a.dim % 32 == 0) return attend_amx(a);
  kAvx512Kernels.attend(a);
}

}  // namespace

extern const Kernels kAmxKernels = {"amx",   nullptr, nullptr, nullptr, nullptr, nullptr, nullptr,
                                    nullptr, nullptr, nullptr, nullptr, nullptr, attend,  nullptr,
                                    nullptr, nullptr, nullptr, nullptr, nullptr};

}  // namespace squeeze
