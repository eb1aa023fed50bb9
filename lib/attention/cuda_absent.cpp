// The answer of builds without CUDA.
#include "kernels/cuda/cuda.hpp"
#include "lib/attention/cuda_attention.hpp"
#include "lib/core/error.hpp"
#include "lib/model/cuda_operations.hpp"

namespace squeeze {

std::unique_ptr<Operations> cuda_operations(bool) { fail("{}", cuda_problem()); }

std::shared_ptr<const CudaContext> upload_context(Operations&, const ContextView&, int64_t) {
  fail("{}", cuda_problem());
}

int64_t n_layers_on_host(const CudaContext&) { fail("{}", cuda_problem()); }
double cached_share(const CudaContext&) { fail("{}", cuda_problem()); }

std::vector<std::unique_ptr<TailAttention>> cuda_attentions(Operations&, std::shared_ptr<const CudaContext>, Rules,
                                                            Rest, int64_t, size_t) {
  fail("{}", cuda_problem());
}

}  // namespace squeeze
