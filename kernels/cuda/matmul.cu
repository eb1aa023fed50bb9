// Matrix products by cuBLASLt, which sees matrices by columns: out^T = weights x^T, whose rows are ours.
#include "kernels/cuda/matmul.hpp"

#include <algorithm>
#include <map>
#include <mutex>
#include <tuple>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/matvec.hpp"

#if defined(SQUEEZE_HAS_CUBLASLT)
#include <cublasLt.h>

namespace squeeze::cuda {
namespace {

constexpr size_t kWorkspaceBytes = size_t{32} << 20;

void check(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS) {
    throw std::runtime_error(std::string("cuBLASLt: ") + what + ": " + cublasLtGetStatusString(status));
  }
}

// One of cuBLASLt's opaque things, destroyed with its owner.
template <class Handle, cublasStatus_t (*kDestroy)(Handle)>
class Owned {
 public:
  Owned() = default;
  Owned(Owned&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Owned& operator=(Owned&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~Owned() {
    if (handle_) kDestroy(handle_);
  }
  Handle* out() { return &handle_; }
  Handle get() const { return handle_; }

 private:
  Handle handle_ = nullptr;
};
using Operation = Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using Layout = Owned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using Preference = Owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

template <class T>
void set(const Operation& operation, cublasLtMatmulDescAttributes_t which, const T& value) {
  check(cublasLtMatmulDescSetAttribute(operation.get(), which, &value, sizeof value), "setting an attribute");
}
template <class T>
void set(const Preference& preference, cublasLtMatmulPreferenceAttributes_t which, const T& value) {
  check(cublasLtMatmulPreferenceSetAttribute(preference.get(), which, &value, sizeof value), "setting a preference");
}

Layout make_layout(cudaDataType type, int64_t rows, int64_t columns) {
  Layout layout;
  check(
      cublasLtMatrixLayoutCreate(layout.out(), type, static_cast<uint64_t>(rows), static_cast<uint64_t>(columns), rows),
      "describing a matrix");
  return layout;
}

// What all pointers of a call are multiples of, up to 256 bytes.
uint32_t alignment_of(const LinearArgs& a) {
  uintptr_t bits = 256;
  for (const void* p : {static_cast<const void*>(a.x), static_cast<const void*>(a.weights),
                        static_cast<const void*>(a.bias), static_cast<const void*>(a.out)}) {
    bits |= reinterpret_cast<uintptr_t>(p);
  }
  return static_cast<uint32_t>(bits & (~bits + 1));
}

// How one shape is computed.
struct Plan {
  Operation operation;
  Layout weights, x, out;
  cublasLtMatmulAlgo_t algorithm = {};
  bool adds_bias = false;
};

// False: nothing is offered.
bool choose_algorithm(cublasLtHandle_t handle, uint32_t alignment, Plan& plan) {
  Preference preference;
  check(cublasLtMatmulPreferenceCreate(preference.out()), "creating preferences");
  set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspaceBytes);
  for (const auto which : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                           CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
    set(preference, which, alignment);
  }
  cublasLtMatmulHeuristicResult_t best;
  int n_found = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(handle, plan.operation.get(), plan.weights.get(), plan.x.get(), plan.out.get(),
                                     plan.out.get(), preference.get(), 1, &best, &n_found);
  if (status == CUBLAS_STATUS_NOT_SUPPORTED || (status == CUBLAS_STATUS_SUCCESS && n_found == 0)) return false;
  check(status, "choosing an algorithm");
  plan.algorithm = best.algo;
  return true;
}

Plan make_plan(cublasLtHandle_t handle, const LinearArgs& a, uint32_t alignment) {
  Plan plan;
  check(cublasLtMatmulDescCreate(plan.operation.out(), CUBLAS_COMPUTE_32F, CUDA_R_32F), "describing a product");
  set(plan.operation, CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
  plan.weights = make_layout(CUDA_R_16BF, a.in_features, a.out_features);
  plan.x = make_layout(CUDA_R_16BF, a.in_features, a.n_rows);
  plan.out = make_layout(CUDA_R_32F, a.out_features, a.n_rows);
  if (a.bias) {
    set(plan.operation, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    set(plan.operation, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, CUDA_R_32F);
    set(plan.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, a.bias);
    plan.adds_bias = choose_algorithm(handle, alignment, plan);
    if (plan.adds_bias) return plan;
    set(plan.operation, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_DEFAULT);
  }
  if (!choose_algorithm(handle, alignment, plan)) {
    throw std::runtime_error("cuBLASLt has no product of " + std::to_string(a.n_rows) + " rows with weights [" +
                             std::to_string(a.out_features) + ", " + std::to_string(a.in_features) + "]");
  }
  return plan;
}

struct BiasArgs {
  const float* bias;
  int64_t n, size;
  float* x;
};
constexpr int kThreads = 256;
__global__ void __launch_bounds__(kThreads) bias_kernel(BiasArgs a) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < a.n; i += step) {
    a.x[i] += a.bias[i % a.size];
  }
}

}  // namespace

struct Matmul::State {
  DeviceArray<char> workspace{kWorkspaceBytes};  // first: it makes the device current
  Owned<cublasLtHandle_t, cublasLtDestroy> handle;
  std::mutex mutex;
  std::map<std::tuple<int64_t, int64_t, int64_t, bool, uint32_t>, Plan> plans;

  State() { check(cublasLtCreate(handle.out()), "start"); }

  const Plan& plan(const LinearArgs& a) {
    const uint32_t alignment = alignment_of(a);
    const std::tuple key{a.n_rows, a.out_features, a.in_features, a.bias != nullptr, alignment};
    auto found = plans.find(key);
    if (found == plans.end()) found = plans.emplace(key, make_plan(handle.get(), a, alignment)).first;
    return found->second;
  }
};

Matmul::Matmul() : state_(std::make_unique<State>()) {}
Matmul::~Matmul() = default;

void Matmul::operator()(const LinearArgs& a, Stream stream) const {
  if (a.n_rows <= kMatvecRows) return matvec(a, stream);
  if (a.out_features == 0) return;
  const std::lock_guard lock(state_->mutex);
  const Plan& plan = state_->plan(a);
  if (plan.adds_bias) set(plan.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, a.bias);
  const float one = 1.0f, zero = 0.0f;
  check(cublasLtMatmul(state_->handle.get(), plan.operation.get(), &one, a.weights, plan.weights.get(), a.x,
                       plan.x.get(), &zero, a.out, plan.out.get(), a.out, plan.out.get(), &plan.algorithm,
                       state_->workspace.data(), kWorkspaceBytes, stream),
        "a matrix product");
  if (!a.bias || plan.adds_bias) return;
  const int64_t n = a.n_rows * a.out_features;
  const int64_t blocks = (n + kThreads - 1) / kThreads, most = int64_t{32} * device_limits().n_multiprocessors;
  launch(bias_kernel, {.grid_x = static_cast<unsigned>(std::min(blocks, most)), .threads = kThreads}, stream,
         BiasArgs{a.bias, n, a.out_features, a.out});
}

}  // namespace squeeze::cuda

#else

namespace squeeze::cuda {

struct Matmul::State {};
Matmul::Matmul() = default;
Matmul::~Matmul() = default;

void Matmul::operator()(const LinearArgs& a, Stream stream) const {
  if (a.n_rows <= kMatvecRows) return matvec(a, stream);
  throw std::runtime_error(
      "this build has no cuBLASLt, which products of more than 8 rows need: install it with the "
      "CUDA toolkit and configure again");
}

}  // namespace squeeze::cuda

#endif
