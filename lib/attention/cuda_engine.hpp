// What the CUDA attentions of one context and rule share: plans, the lookup, and what a call computes in. They compute
// one after the other, or together.
#pragma once

#include <map>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "kernels/cuda/attend_decode.hpp"
#include "lib/attention/cuda_lookup.hpp"
#include "lib/model/cuda_device_operations.hpp"

namespace squeeze {

inline constexpr int64_t kMostCudaWorks = 1024;  // KV heads of blocks of query tokens that the kernels take at once

class CudaEngine {
 public:
  CudaEngine(CudaOperations& operations, std::shared_ptr<const CudaContext> of, Rules how, Rest rest_mode);

  const ModelInfo& model() const { return context->model; }
  const CudaStream& stream() const { return cuda.stream(); }
  const CudaLayer& layer(int number) const { return context->layers[static_cast<size_t>(number)]; }

  // Of blocks of n_query_tokens; made once.
  const CudaPlan& plan(int number, int64_t n_query_tokens);
  // Blocks of `group` query rows per KV head that the buffers of one lookup may hold.
  int64_t blocks_at_once(int number, const CudaPlan& rule, int group) const;
  // Numbers of rows that say "everything", in device memory: for each KV head of each block.
  const int32_t* all_rows(int64_t n_blocks);
  // The numbers in device memory. Often the same again: for every layer of a pass.
  const int32_t* set_tail_lengths(std::vector<int32_t> lengths);
  const int32_t* tail_lengths() const { return tail_lengths_.data(); }  // as they were set last
  // CudaCounts::totals() of requests, in device memory; likewise.
  int64_t* const* set_totals(std::vector<int64_t*> totals);
  int64_t* const* totals() const { return totals_of_.data(); }

  // Selects for the works of `a`, unless rule is null, and attends. totals_of: as CudaLookup::select.
  void select_and_attend(int number, const CudaPlan* rule, int64_t* const* totals_of, int64_t n_requests,
                         cuda::AttendDecodeArgs& a);

  // What a call's arguments say of a layer's context.
  template <class Args>
  Args arguments(int number) const {
    const CudaLayer& own = layer(number);
    Args a = {};
    a.n_kv_heads = model().n_kv_heads;
    a.head_dim = model().head_dim;
    a.scale = model().softmax_scale;
    a.dtype = own.kv_dtype;
    a.float_type = context->dtype;
    a.key_scales = own.key_scales.data();
    a.value_scales = own.value_scales.data();
    a.keys = own.keys.data();
    a.values = own.values.data();
    a.n_tokens = context->n_tokens;
    return a;
  }

  // Where the tails of several requests lie, of one layer: [requests * KV heads] each.
  struct TailRows {
    std::vector<void*> keys, values;
    CudaBuffer<void*> keys_of, values_of;

    void set(std::vector<void*> new_keys, std::vector<void*> new_values, const CudaStream& stream);
  };

  CudaOperations& cuda;
  std::shared_ptr<const CudaContext> context;
  Rest rest;
  std::vector<TailRows> tail_rows;  // per layer
  Tensor output{cuda_memory()};
  CudaBuffer<float> grouped_queries, grouped_out;
  CudaWorkspace prefill_space;

 private:
  // Rows that lie on the host and are not cached yet are, as far as there is room; counts what crosses the bus.
  void read_through_cache(const CudaLayer& layer, int64_t* const* totals_of, int64_t n_requests,
                          cuda::AttendDecodeArgs& a);
  void cache_rows(const CudaLayer& own, cuda::AttendDecodeArgs& a);

  Rules rules_;
  CudaLookup lookup_;
  std::map<std::pair<int, int64_t>, CudaPlan> plans_;
  CudaBuffer<int32_t> all_rows_, tail_lengths_;
  std::vector<int32_t> lengths_;
  std::vector<int64_t*> totals_;
  CudaBuffer<int64_t*> totals_of_;
  size_t n_all_rows_ = 0;
  CudaWorkspace decode_space_;
  CudaBuffer<char> cache_space_;
  CudaBuffer<int32_t> n_copied_, n_in_place_;
};

}  // namespace squeeze
