// Squared distances to the nearest seed so far, and a draw by cumulative sums of them.
#include "lib/index/seeding.hpp"

#include <algorithm>
#include <cstring>
#include <random>

#include "kernels/kernels.hpp"
#include "lib/core/parallel.hpp"

namespace squeeze {
namespace {

constexpr int64_t kBlock = 4096;  // points of a partial sum

class Spread {
 public:
  Spread(TensorView points, std::span<const float> weights, uint64_t seed)
      : points_(points),
        weights_(weights),
        random_(seed),
        distance_(static_cast<size_t>(points.size(0)), 1.0f),  // the first is drawn by weight alone
        squares_(distance_.size()),
        dots_(distance_.size()),
        sums_(static_cast<size_t>((points.size(0) + kBlock - 1) / kBlock)) {
    const int64_t dim = points.size(1);
    for_blocks([&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const float* x = points.f32() + i * dim;
        double sum = 0;
        for (int64_t c = 0; c < dim; ++c) sum += double{x[c]} * double{x[c]};
        squares_[static_cast<size_t>(i)] = static_cast<float>(sum);
      }
      add_up(begin, end);
    });
  }

  // A point's number, and what the seeds after it will be far from.
  int64_t next(bool is_first) {
    const int64_t chosen = draw();
    for_blocks([&](int64_t begin, int64_t end) {
      measure(chosen, begin, end, is_first);
      add_up(begin, end);
    });
    return chosen;
  }

 private:
  template <class Body>
  void for_blocks(const Body& body) {
    parallel_blocks(points_.size(0), kBlock, body);
  }

  double weight(int64_t i) const {
    const auto at = static_cast<size_t>(i);
    return double{distance_[at]} * (weights_.empty() ? 1.0 : double{weights_[at]});
  }

  void add_up(int64_t begin, int64_t end) {
    double sum = 0;
    for (int64_t i = begin; i < end; ++i) sum += weight(i);
    sums_[static_cast<size_t>(begin / kBlock)] = sum;
  }

  void measure(int64_t chosen, int64_t begin, int64_t end, bool is_first) {
    const int64_t dim = points_.size(1);
    kernels().scores({.queries = points_.f32() + chosen * dim,
                      .n_queries = 1,
                      .rows = points_.at(begin * dim),
                      .dtype = DType::f32,
                      .n_rows = end - begin,
                      .dim = dim,
                      .scale = 1.0f,
                      .out = dots_.data() + begin,
                      .out_stride = end - begin});
    const float own = squares_[static_cast<size_t>(chosen)];
    for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
      const float d = std::max(0.0f, squares_[i] + own - 2 * dots_[i]);
      distance_[i] = is_first ? d : std::min(distance_[i], d);
    }
    if (begin <= chosen && chosen < end) distance_[static_cast<size_t>(chosen)] = 0;
  }

  int64_t draw() {
    double total = 0;
    for (const double sum : sums_) total += sum;
    double left = total * (static_cast<double>(random_() >> 11) * 0x1p-53);
    size_t block = 0;
    while (block + 1 < sums_.size() && left >= sums_[block]) left -= sums_[block++];
    const int64_t begin = static_cast<int64_t>(block) * kBlock;
    const int64_t end = std::min(points_.size(0), begin + kBlock);
    int64_t i = begin;
    while (i + 1 < end && left >= weight(i)) left -= weight(i++);
    return i;
  }

  TensorView points_;
  std::span<const float> weights_;
  std::mt19937_64 random_;
  std::vector<float> distance_, squares_, dots_;  // [n]
  std::vector<double> sums_;                      // of weight() per block
};

}  // namespace

Tensor spread_seeds(TensorView points, std::span<const float> weights, int64_t n_seeds, uint64_t seed) {
  const int64_t dim = points.size(1);
  Tensor seeds(DType::f32, {n_seeds, dim});
  Spread spread(points, weights, seed);
  for (int64_t i = 0; i < n_seeds; ++i) {
    std::memcpy(seeds.f32() + i * dim, points.f32() + spread.next(i == 0) * dim,
                static_cast<size_t>(dim) * sizeof(float));
  }
  return seeds;
}

}  // namespace squeeze
