// The launches of one layer's lookup for works of query rows: levels, then sketches; and what they read.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cuda/forward_ops.hpp"
#include "lib/attention/cuda_plan.hpp"

namespace squeeze {

// What the lookup leaves in device memory for attend_decode. A work is one KV head of one block of query tokens.
struct CudaSelection {
  const int32_t* rows;  // [n_works, rows_stride]
  int64_t rows_stride;
  const int32_t* n_rows;  // [n_works]
  const int32_t* rest;    // [n_works, rest_stride] value means; null: dropped
  const float* rest_logits;
  int64_t rest_stride;
  const int32_t* n_rest;
};

// What the lookups of one request kept and read, partly in device memory.
class CudaCounts {
 public:
  explicit CudaCounts(const CudaStream& stream) : stream_(stream) { clear(); }

  // What any lookups of n_works read, whatever they keep.
  void add_fixed(const CudaLayer& layer, const CudaPlan& plan, int64_t n_works);
  // Adds the keys selected so far, and the bytes of these and of the index; waits for the device.
  void add_usage(const CudaLayer& layer, Usage& usage) const;
  void clear();

  // Rows in the lists of lookups; of layers whose keys and values are on the host, and of those what crossed the bus;
  // items scored below the first level, sketches, value means.
  enum Total { kRows, kHostRows, kFromHost, kScored, kSketches, kRest, kTotals };
  int64_t* totals() const { return totals_.data(); }

 private:
  const CudaStream& stream_;
  CudaBuffer<int64_t> totals_;
  int64_t scored_at_top_ = 0;  // centroids of first levels: all of them, every time
  int64_t pinned_ = 0;         // rows in the lists that were not selected
  int64_t codebook_bytes_ = 0;
};

// A launch that adds numbers of works up for each of their requests. n_works, totals_of: as CudaLookup::select.
class CudaCounting {
 public:
  CudaCounting(int64_t n_works, int64_t* const* totals_of, int64_t n_requests);
  void add(const int32_t* of_works, CudaCounts::Total total, const CudaStream& stream);  // launches what is full
  void launch(const CudaStream& stream);                                                 // the rest

 private:
  cuda::CountArgs args_ = {};
};

class CudaLookup {
 public:
  CudaLookup(const CudaContext& context, Rest rest, const CudaStream& stream);

  // queries: f32 [n_works, group, head_dim], n_works a multiple of the KV heads and of the requests: as many works of
  // each, one request after the other. totals_of: [n_requests], in device memory: CudaCounts::totals() of each, but for
  // CudaCounts::add_fixed.
  CudaSelection select(const CudaLayer& layer, const CudaPlan& plan, const float* queries, int64_t n_works, int group,
                       int64_t* const* totals_of, int64_t n_requests);

  // Device memory that a work takes: what limits how many may be looked up at once.
  int64_t bytes_per_work(const CudaLayer& layer, const CudaPlan& plan, int group) const;

 private:
  struct Level {  // what is in play at a level
    CudaBuffer<int32_t> items, n_items;
    CudaBuffer<float> dropped;
    CudaWorkspace space;
  };
  template <class Args>
  Args arguments(const float* queries, int64_t n_works, int group) const;
  void look_up(const CudaLayer& layer, const CudaPlan& plan, size_t number, const float* queries, int64_t n_works,
               int group);
  void choose_keys(const CudaLayer& layer, const CudaPlan& plan, const float* queries, int64_t n_works, int group);
  void count(const CudaLayer& layer, const CudaPlan& plan, int64_t n_works, int64_t* const* totals_of,
             int64_t n_requests);

  const CudaContext& context_;
  Rest rest_;
  const CudaStream& stream_;
  std::vector<Level> levels_;  // [i]: what level i lets through
  CudaBuffer<int32_t> rows_, n_rows_, rest_list_, n_rest_, n_rest_after_, n_candidates_;
  CudaBuffer<float> rest_logits_, cluster_logits_, top_logits_;
  CudaBuffer<char> sketch_space_;
};

}  // namespace squeeze
