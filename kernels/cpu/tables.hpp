// The per-ISA tables that dispatch.cpp chooses from. An entry left null is filled from the next lower ISA.
#pragma once

#include "kernels/kernels.hpp"

namespace squeeze {

extern const Kernels kScalarKernels;
#if defined(__x86_64__)
extern const Kernels kAvx2Kernels;    // AVX2, FMA, F16C
extern const Kernels kAvx512Kernels;  // AVX-512 F, BW, DQ, VL
extern const Kernels kAmxKernels;     // AMX tiles of bf16, and the same
#endif

// Whether the CPU has AMX and the operating system, asked, lets this process use it.
bool has_amx();

}  // namespace squeeze
