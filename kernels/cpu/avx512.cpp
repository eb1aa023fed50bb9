// The AVX-512 kernels (F, BW, DQ, VL): the shared bodies, compiled for vectors of 16 floats.
#include "kernels/cpu/simd/assign.hpp"
#include "kernels/cpu/simd/attend_many.hpp"
#include "kernels/cpu/simd/dot.hpp"
#include "kernels/cpu/simd/elementwise.hpp"
#include "kernels/cpu/simd/leaf_weights.hpp"
#include "kernels/cpu/simd/sketch.hpp"
#include "kernels/cpu/simd/weighted_sum.hpp"
#include "kernels/cpu/tables.hpp"

namespace squeeze {

extern const Kernels kAvx512Kernels = {
    "avx512", to_f32,          from_f32, widen_i8,     scores, sketch_scores, leaf_weights, find_from, extent, exp_sum,
    log,      sum_squares_f16, attend,   weighted_sum, assign, matvec,        rms_norm,     rope,      swiglu};

}  // namespace squeeze
