// One cooperative launch of three phases, a grid barrier between them:
//   estimate  four bits of a code look up, in shared memory, entries of a codebook, the 8-bit operand of a matrix
//             product with the queries (sketch_queries.cuh); weights exp(estimate) to the workspace, their sums per
//             block
//   count     scores, and a histogram of them per block
//   keep      the histograms of a work's blocks give the border and where each block's rows begin
// A block has the same leaves in all three, so that it finds its own weights in the cache.
#include "kernels/cuda/sketch_lookup.hpp"

#include <stdexcept>
#include <string>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/sketch_keep.cuh"
#include "kernels/cuda/sketch_queries.cuh"
#include "kernels/cuda/sketch_space.cuh"

namespace squeeze::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;

template <int kDim, int kGroupDim, bool kSplitRows>
struct Config {
  using Layout = CodeLayout<kDim, kGroupDim>;
  static constexpr bool kSplit = kSplitRows;
};

struct Shared {
  float sums[kWarps][kSketchHeads];
  union {
    SketchQueries queries;
    SketchKeepSpace keep;
  };
};

// One warp's leaves: weights, squared scales, and sums of the weights of the heads lane / 4 and lane / 4 + 8.
template <class C>
class LeafEstimates {
 public:
  __device__ LeafEstimates(const SketchLookupArgs& args, const SketchSpace& space, int work,
                           const SketchQueries& queries)
      : a_(args), space_(space), work_(work), fragments_(queries), lane_(static_cast<int>(threadIdx.x) % kWarpSize) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int head = lane_ / 4 + i * 8;
      const bool present = head < a_.group;
      factor_[i] = present ? queries.factor[head] : 0.0f;
      top_[i] = present ? a_.top_logits[work * a_.group + head] : 0.0f;
    }
  }

  __device__ void run(int position, float (&sums)[2]) {
    const SketchLeaf leaf = SketchLeaf::at(a_, work_, position);
    float base[2];  // the leaf's logit, less the top one
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int head = lane_ / 4 + i * 8;
      const int64_t row = static_cast<int64_t>(work_) * a_.group + head;
      base[i] = head < a_.group ? a_.cluster_logits[row * a_.n_clusters + leaf.number] - top_[i] : 0.0f;
    }
    float squares = 0.0f;
    for (int first = 0; first < leaf.n_keys; first += 8) add_keys(leaf, first, base, sums, squares);
    squares += __shfl_xor_sync(kAllLanes, squares, 1);
    squares += __shfl_xor_sync(kAllLanes, squares, 2);
    if (lane_ == 0) {
      space_.squared_scales[static_cast<int64_t>(work_) * a_.n_clusters + position] =
          squares / static_cast<float>(leaf.n_keys);
    }
  }

 private:
  __device__ void add_keys(const SketchLeaf& leaf, int first, const float (&base)[2], float (&sums)[2],
                           float& squares) const {
    const int64_t head_keys = static_cast<int64_t>(work_ % a_.n_kv_heads) * a_.n_clustered + leaf.first_key;
    const int own = first + lane_ / 4;  // the key whose code this lane loads
    int32_t dots[4];
    fragments_.dots(a_.codes + (head_keys + (own < leaf.n_keys ? own : first)) * C::Layout::kCodeBytes, dots);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int key = first + lane_ % 4 * 2 + i % 2, head = lane_ / 4 + i / 2 * 8;
      if (key >= leaf.n_keys) continue;
      const float scale = half_to_float(a_.scales[head_keys + key]);
      if (i < 2) squares += scale * scale;
      if (head >= a_.group) continue;
      const float logit = base[i / 2] + factor_[i / 2] * scale * static_cast<float>(dots[i]);
      const float weight = exp2_fast(logit * kLog2E);
      sums[i / 2] += weight;
      space_.weights[(static_cast<int64_t>(work_) * a_.group + head) * a_.n_clustered + leaf.first_key + key] =
          static_cast<uint16_t>(pack(weight, 0.0f, BF16{}) & 0xffffu);
    }
  }

  const SketchLookupArgs& a_;
  const SketchSpace& space_;
  int work_;
  SketchFragments<typename C::Layout, C::kSplit> fragments_;
  int lane_;
  float factor_[2], top_[2];
};

// The weights of the block's leaves of one work, and their sums, in the slot.
template <class C>
__device__ void estimate(const SketchLookupArgs& a, const SketchSpace& space, const SketchPart& part, Shared& shared) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize, warp = static_cast<int>(threadIdx.x) / kWarpSize;
  load_queries<typename C::Layout>(a, part.work, C::kSplit, shared.queries);
  LeafEstimates<C> leaves(a, space, part.work, shared.queries);
  float sums[2] = {0.0f, 0.0f};
  for (int position = part.begin + warp; position < part.end; position += kWarps) leaves.run(position, sums);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    sums[i] += __shfl_xor_sync(kAllLanes, sums[i], 1);
    sums[i] += __shfl_xor_sync(kAllLanes, sums[i], 2);
    if (lane % 4 == 0) shared.sums[warp][lane / 4 + i * 8] = sums[i];
  }
  __syncthreads();
  const int head = static_cast<int>(threadIdx.x);
  if (head < a.group) {
    float all = 0.0f;
    for (int w = 0; w < kWarps; ++w) all += shared.sums[w][head];
    space.sums[static_cast<int64_t>(part.slot) * a.group + head] = all;
  }
  __syncthreads();
}

template <class C>
__global__ void __launch_bounds__(kThreads) sketch_lookup_kernel(SketchLookupArgs a) {
  auto& shared = *reinterpret_cast<Shared*>(shared_memory());
  auto* first_unit = reinterpret_cast<int32_t*>(shared_memory() + sizeof(Shared));
  const SketchSpace space = SketchSpace::of(a);
  const WorkSplit split = split_work(a.n_works, first_unit, [&](int work) { return a.n_leaves[work]; });
  for_parts(split, [&](const SketchPart& part) { estimate<C>(a, space, part, shared); });
  sync_grid();
  for_parts(split, [&](const SketchPart& part) { count_scores(a, space, part, shared.keep); });
  sync_grid();
  for_parts(split, [&](const SketchPart& part) { keep_keys(a, space, part, shared.keep); });
  write_without_leaves(a, split);
}

template <int kDim, int kGroupDim, bool kSplit>
void launch_config(const SketchLookupArgs& a, Stream stream) {
  const auto kernel = sketch_lookup_kernel<Config<kDim, kGroupDim, kSplit>>;
  const size_t shared_bytes = sizeof(Shared) + sizeof(int32_t) * (static_cast<size_t>(a.n_works) + 1);
  const int resident = resident_blocks(kernel, kThreads, shared_bytes);
  launch(kernel,
         {.grid_x = static_cast<unsigned>(resident < kMaxSketchBlocks ? resident : kMaxSketchBlocks),
          .threads = kThreads,
          .shared_bytes = shared_bytes,
          .cooperative = true},
         stream, a);
}

template <int kGroupDim, bool kSplit>
void launch_dim(const SketchLookupArgs& a, Stream stream) {
  switch (a.head_dim) {
    case 64:
      return launch_config<64, kGroupDim, kSplit>(a, stream);
    case 96:
      return launch_config<96, kGroupDim, kSplit>(a, stream);
    case 128:
      return launch_config<128, kGroupDim, kSplit>(a, stream);
    case 256:
      return launch_config<256, kGroupDim, kSplit>(a, stream);
  }
  throw std::invalid_argument("sketch_lookup: head dim must be 64, 96, 128 or 256, found " +
                              std::to_string(a.head_dim));
}

template <int kGroupDim>
void launch_group(const SketchLookupArgs& a, Stream stream) {
  a.group <= 8 ? launch_dim<kGroupDim, true>(a, stream) : launch_dim<kGroupDim, false>(a, stream);
}

}  // namespace

size_t sketch_lookup_workspace_bytes(int n_works, int group, int64_t n_clustered, int n_clusters) {
  return SketchSpace::bytes(n_works, group, n_clustered, n_clusters);
}

void sketch_lookup(const SketchLookupArgs& a, Stream stream) {
  if (a.n_works == 0) return;
  if (a.group < 1 || a.group > kSketchHeads || a.n_works < 0 || a.n_works > 1 << 10) {
    throw std::invalid_argument("sketch_lookup: expected groups of 1 to 16 query heads and up to 1024 works, found " +
                                std::to_string(a.group) + " and " + std::to_string(a.n_works));
  }
  if (a.max_heads < 1 || a.group % a.max_heads != 0) {
    throw std::invalid_argument("sketch_lookup: " + std::to_string(a.group) + " rows are not those of " +
                                std::to_string(a.max_heads) + " heads");
  }
  switch (a.group_dim) {
    case 2:
      return launch_group<2>(a, stream);
    case 4:
      return launch_group<4>(a, stream);
    case 8:
      return launch_group<8>(a, stream);
  }
  throw std::invalid_argument("sketch_lookup: four bits stand for 2, 4 or 8 dimensions, found " +
                              std::to_string(a.group_dim));
}

}  // namespace squeeze::cuda
