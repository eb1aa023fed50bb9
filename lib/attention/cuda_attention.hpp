// Attention over a fixed context and a tail on a CUDA device: ContextAttention by the kernels of kernels/cuda.
#pragma once

#include <memory>
#include <vector>

#include "lib/attention/context_attention.hpp"
#include "lib/model/operations.hpp"

namespace squeeze {

struct CudaContext;

// Query rows of one KV head that may share a selection on a device: tokens times the group's query heads.
inline constexpr int64_t kMostCudaRows = 16;

// The context in device memory, for any number of attentions. `cuda`: made by cuda_operations(). `context` outlives
// what is returned, and its row types are changed as CudaContext says. device_bytes: what it may take at most; 0: what
// is free. Keys and values that do not fit stay in pinned memory of the host, layer by layer; the rows that are chosen
// are read over the bus, unless they were read lately and are cached on the device. Throws if the rest does not fit.
std::shared_ptr<const CudaContext> upload_context(Operations& cuda, const ContextView& context,
                                                  int64_t device_bytes = 0);
int64_t n_layers_on_host(const CudaContext& context);
double cached_share(const CudaContext& context);  // rows that there is room for, of these layers'

// Selects as ContextAttention does, with these differences: blocks of query tokens have at most 16 query rows per KV
// head (16 / group size tokens); with upper levels, a budget counts on what its rule expects them to let through; a
// level above the leaves, or a leaf, that no longer fits a number of keys ends the choice. Usage has no times. Inputs
// and outputs are device memory. One of n per request that is answered at a time: they share what a call computes in,
// so that an output is valid until the next call of any of them, and a step of all of them (begin_step) takes as many
// launches as that of one.
std::vector<std::unique_ptr<TailAttention>> cuda_attentions(Operations& cuda,
                                                            std::shared_ptr<const CudaContext> context, Rules rules,
                                                            Rest rest, int64_t query_block, size_t n);

}  // namespace squeeze
