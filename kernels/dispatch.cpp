// Chooses the kernel table: the only place that branches on the machine.
#include <atomic>
#include <cstdlib>
#include <cstring>

#include "kernels/cpu/tables.hpp"

namespace squeeze {
namespace {

// `upper` with its null entries taken from `lower`.
Kernels filled(Kernels upper, const Kernels& lower) {
  const auto fill = [](auto& entry, auto fallback) {
    if (!entry) entry = fallback;
  };
  fill(upper.to_f32, lower.to_f32);
  fill(upper.from_f32, lower.from_f32);
  fill(upper.widen_i8, lower.widen_i8);
  fill(upper.scores, lower.scores);
  fill(upper.sketch_scores, lower.sketch_scores);
  fill(upper.leaf_weights, lower.leaf_weights);
  fill(upper.find_from, lower.find_from);
  fill(upper.extent, lower.extent);
  fill(upper.exp_sum, lower.exp_sum);
  fill(upper.log, lower.log);
  fill(upper.sum_squares_f16, lower.sum_squares_f16);
  fill(upper.attend, lower.attend);
  fill(upper.weighted_sum, lower.weighted_sum);
  fill(upper.assign, lower.assign);
  fill(upper.matvec, lower.matvec);
  fill(upper.rms_norm, lower.rms_norm);
  fill(upper.rope, lower.rope);
  fill(upper.swiglu, lower.swiglu);
  return upper;
}

const std::vector<const Kernels*>& tables() {
  static const std::vector<const Kernels*> list = [] {
    std::vector<const Kernels*> found{&kScalarKernels};
#if defined(__x86_64__)
    __builtin_cpu_init();
    static const Kernels avx2 = filled(kAvx2Kernels, kScalarKernels);
    static const Kernels avx512 = filled(kAvx512Kernels, avx2);
    static const Kernels amx = filled(kAmxKernels, avx512);
    const bool has_avx2 =
        __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    if (has_avx2) found.push_back(&avx2);
    if (has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
      if (has_amx()) found.push_back(&amx);  // not last, and so not the default: it has not been timed yet
      found.push_back(&avx512);
    }
#endif
    return found;
  }();
  return list;
}

const Kernels* find(const char* isa) {
  for (const Kernels* table : tables()) {
    if (std::strcmp(table->isa, isa) == 0) return table;
  }
  return nullptr;
}

// SQUEEZE_ISA; null if unset or empty.
const char* requested_isa() {
  const char* wanted = std::getenv("SQUEEZE_ISA");
  return wanted && *wanted ? wanted : nullptr;
}

std::atomic<const Kernels*>& active() {
  static std::atomic<const Kernels*> table = [] {
    const char* wanted = requested_isa();
    const Kernels* named = wanted ? find(wanted) : nullptr;
    return named ? named : tables().back();
  }();
  return table;
}

}  // namespace

std::vector<const Kernels*> available_kernels() { return tables(); }

const Kernels& kernels() { return *active().load(std::memory_order_relaxed); }

const char* invalid_isa_request() {
  const char* wanted = requested_isa();
  return wanted && !find(wanted) ? wanted : nullptr;
}

bool select_kernels(const char* isa) {
  const Kernels* table = find(isa);
  if (table) active().store(table);
  return table != nullptr;
}

}  // namespace squeeze
