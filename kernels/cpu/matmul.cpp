// The dense matrix product, by oneDNN: one single-threaded primitive per shape, kept per thread.
#include "kernels/matmul.hpp"

#include <array>
#include <dnnl.hpp>
#include <map>
#include <vector>

namespace squeeze {
namespace {

using dnnl::memory;

// dtype, n_rows, out_features, in_features, out_stride
using Key = std::array<int64_t, 5>;

struct Plan {
  dnnl::matmul::primitive_desc description;
  dnnl::matmul primitive;
};

const dnnl::engine& cpu_engine() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

Plan make_plan(const MatmulArgs& a) {
  const auto type = a.dtype == DType::bf16 ? memory::data_type::bf16 : memory::data_type::f32;
  const memory::desc x({a.n_rows, a.in_features}, type, memory::dims{a.in_features, 1});
  const memory::desc weights({a.in_features, a.out_features}, type, memory::dims{1, a.in_features});
  const memory::desc out({a.n_rows, a.out_features}, memory::data_type::f32, memory::dims{a.out_stride, 1});
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  const dnnl::matmul::primitive_desc description(dnnl::matmul::desc(x, weights, out), attributes, cpu_engine());
  return {description, dnnl::matmul(description)};
}

const Plan& plan_for(const MatmulArgs& a) {
  constexpr size_t kMaxPlans = 256;
  thread_local std::map<Key, Plan> plans;
  const Key key{static_cast<int64_t>(a.dtype), a.n_rows, a.out_features, a.in_features, a.out_stride};
  if (const auto found = plans.find(key); found != plans.end()) return found->second;
  if (plans.size() >= kMaxPlans) plans.clear();
  return plans.emplace(key, make_plan(a)).first->second;
}

void execute(const MatmulArgs& a) {
  thread_local dnnl::stream stream(cpu_engine());
  thread_local std::vector<std::byte> scratch;
  const Plan& plan = plan_for(a);
  const memory::desc scratch_desc = plan.description.scratchpad_desc();
  if (scratch.size() < scratch_desc.get_size()) scratch.resize(scratch_desc.get_size());
  plan.primitive.execute(
      stream, {{DNNL_ARG_SRC, memory(plan.description.src_desc(), cpu_engine(), const_cast<void*>(a.x))},
               {DNNL_ARG_WEIGHTS, memory(plan.description.weights_desc(), cpu_engine(), const_cast<void*>(a.weights))},
               {DNNL_ARG_DST, memory(plan.description.dst_desc(), cpu_engine(), a.out)},
               {DNNL_ARG_SCRATCHPAD, memory(scratch_desc, cpu_engine(), scratch.data())}});
  stream.wait();
}

// oneDNN has bf16 from AVX-512 on.
bool has_bf16() {
  static const bool supported = [] {
    try {
      (void)make_plan({nullptr, nullptr, DType::bf16, 16, 16, 16, nullptr, 16});
      return true;
    } catch (const dnnl::error& e) {
      if (e.status != dnnl_unimplemented) throw;
      return false;
    }
  }();
  return supported;
}

std::vector<float> widen(const void* data, int64_t n) {
  std::vector<float> wide(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) wide[static_cast<size_t>(i)] = load_element(data, DType::bf16, i);
  return wide;
}

}  // namespace

void matmul(const MatmulArgs& args) {
  if (args.n_rows == 0 || args.out_features == 0) return;
  if (args.in_features == 0) {
    for (int64_t i = 0; i < args.n_rows; ++i) {
      for (int64_t j = 0; j < args.out_features; ++j) args.out[i * args.out_stride + j] = 0;
    }
    return;
  }
  if (args.dtype == DType::f32 || has_bf16()) return execute(args);
  const std::vector<float> x = widen(args.x, args.n_rows * args.in_features);
  const std::vector<float> weights = widen(args.weights, args.out_features * args.in_features);
  MatmulArgs wide = args;
  wide.x = x.data();
  wide.weights = weights.data();
  wide.dtype = DType::f32;
  execute(wide);
}

}  // namespace squeeze
