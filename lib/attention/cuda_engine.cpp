// Buffers that are kept from call to call, and what is known of a layer.
#include "lib/attention/cuda_engine.hpp"

#include <algorithm>

#include "kernels/cuda/row_cache.hpp"
#include "lib/attention/cuda_placement.hpp"

namespace squeeze {
namespace {

constexpr int64_t kLookupBytes = int64_t{256} << 20;  // of the buffers of one lookup: more works go one after another

void set_selection(const CudaSelection& selection, const CudaLayer& layer, cuda::AttendDecodeArgs& a) {
  a.rows = selection.rows;
  a.rows_stride = selection.rows_stride;
  a.n_rows = selection.n_rows;
  if (!selection.rest) return;
  a.value_means = layer.value_means.data();
  a.n_clusters = layer.n_means;
  a.rest = selection.rest;
  a.rest_logits = selection.rest_logits;
  a.rest_stride = selection.rest_stride;
  a.n_rest = selection.n_rest;
}

}  // namespace

CudaEngine::CudaEngine(CudaOperations& operations, std::shared_ptr<const CudaContext> of, Rules how, Rest rest_mode)
    : cuda(operations),
      context(std::move(of)),
      rest(rest_mode),
      tail_rows(context->layers.size()),
      rules_(std::move(how)),
      lookup_(*context, rest_mode, operations.stream()) {}

const CudaPlan& CudaEngine::plan(int number, int64_t n_query_tokens) {
  const auto found = plans_.find({number, n_query_tokens});
  if (found != plans_.end()) return found->second;
  return plans_
      .emplace(std::pair{number, n_query_tokens},
               plan_layer(layer(number), number, rules_, rest, n_query_tokens, stream()))
      .first->second;
}

int64_t CudaEngine::blocks_at_once(int number, const CudaPlan& rule, int group) const {
  const int64_t block_bytes = lookup_.bytes_per_work(layer(number), rule, group) * model().n_kv_heads;
  return std::max<int64_t>(1, std::min(kLookupBytes / block_bytes, kMostCudaWorks / model().n_kv_heads));
}

const int32_t* CudaEngine::all_rows(int64_t n_blocks) {
  const auto n_works = static_cast<size_t>(n_blocks * model().n_kv_heads);
  if (n_works > n_all_rows_) {
    all_rows_.filled(std::vector<int32_t>(n_works, static_cast<int32_t>(context->n_tokens)), stream());
    n_all_rows_ = n_works;
  }
  return all_rows_.data();
}

int64_t* const* CudaEngine::set_totals(std::vector<int64_t*> totals) {
  if (totals != totals_) {
    totals_ = std::move(totals);
    totals_of_.filled(totals_, stream());
  }
  return totals_of_.data();
}

const int32_t* CudaEngine::set_tail_lengths(std::vector<int32_t> lengths) {
  if (lengths != lengths_) {
    lengths_ = std::move(lengths);
    tail_lengths_.filled(lengths_, stream());
  }
  return tail_lengths_.data();
}

void CudaEngine::select_and_attend(int number, const CudaPlan* rule, int64_t* const* totals_of, int64_t n_requests,
                                   cuda::AttendDecodeArgs& a) {
  if (rule) {
    set_selection(lookup_.select(layer(number), *rule, a.queries, a.n_works, a.group, totals_of, n_requests),
                  layer(number), a);
  } else {
    a.n_rows = all_rows(a.n_works / model().n_kv_heads);
  }
  if (layer(number).on_host) read_through_cache(layer(number), totals_of, n_requests, a);
  a.workspace =
      decode_space_.of(cuda::attend_decode_workspace_bytes(a.n_works, a.group, a.head_dim), {a.n_works}, stream());
  cuda::attend_decode(a, stream().get());
}

void CudaEngine::read_through_cache(const CudaLayer& own, int64_t* const* totals_of, int64_t n_requests,
                                    cuda::AttendDecodeArgs& a) {
  CudaCounting counting(a.n_works, totals_of, n_requests);
  counting.add(a.n_rows, CudaCounts::kHostRows, stream());
  if (own.cache.n_slots == 0) {
    counting.add(a.n_rows, CudaCounts::kFromHost, stream());
  } else {
    cache_rows(own, a);
    counting.add(n_copied_.data(), CudaCounts::kFromHost, stream());
    counting.add(n_in_place_.data(), CudaCounts::kFromHost, stream());
  }
  counting.launch(stream());
}

void CudaEngine::cache_rows(const CudaLayer& own, cuda::AttendDecodeArgs& a) {
  const CudaRowCache& cache = own.cache;
  const auto works = static_cast<size_t>(a.n_works);
  cuda::RowCacheArgs c = {};
  c.rows = a.rows;
  c.rows_stride = a.rows_stride;
  c.n_rows = a.n_rows;
  c.n_works = a.n_works;
  c.n_kv_heads = a.n_kv_heads;
  c.keys = a.keys;
  c.values = a.values;
  c.n_tokens = a.n_tokens;
  c.row_bytes = static_cast<int>(device_row_bytes(own.heads[0]) / 2);
  c.cached_keys = cache.keys.data();
  c.cached_values = cache.values.data();
  c.n_slots = cache.n_slots;
  c.slot_of = cache.slot_of.data();
  c.row_of = cache.row_of.data();
  c.used = cache.used.data();
  c.clock = cache.clock.data();
  c.n_copied = n_copied_.resized(works);
  c.n_in_place = n_in_place_.resized(works);
  c.workspace = cache_space_.resized(cuda::row_cache_workspace_bytes(c.n_kv_heads, c.n_slots));
  cuda::cache_rows(c, stream().get());
  a.slot_of = cache.slot_of.data();
  a.cached_keys = cache.keys.data();
  a.cached_values = cache.values.data();
  a.n_slots = cache.n_slots;
}

void CudaEngine::TailRows::set(std::vector<void*> new_keys, std::vector<void*> new_values, const CudaStream& stream) {
  if (new_keys == keys && new_values == values) return;
  keys = std::move(new_keys);
  values = std::move(new_values);
  keys_of.filled(keys, stream);
  values_of.filled(values, stream);
}

}  // namespace squeeze
