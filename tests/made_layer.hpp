// Made-up keys, values and queries for the tests of clustering, lookup and calibration.
#pragma once

#include <cmath>
#include <random>

#include "lib/index/build.hpp"

namespace squeeze {

// Standard normal numbers.
inline Tensor random_tensor(Shape shape, unsigned seed, DType dtype = DType::f32) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  Tensor out(dtype, shape);
  for (int64_t i = 0; i < out.n_elements(); ++i) store_element(out.data(), dtype, i, normal(generator));
  return out;
}

// Keys [n_heads, n_tokens, dim] around n_topics random directions of growing length, the topic changing every few
// tokens as in a text.
inline Tensor topic_keys(int64_t n_heads, int64_t n_tokens, int64_t dim, int64_t n_topics, unsigned seed,
                         DType dtype = DType::f32) {
  const Tensor topics = random_tensor({n_topics, dim}, seed);
  const Tensor noise = random_tensor({n_heads, n_tokens, dim}, seed + 1);
  Tensor keys(dtype, {n_heads, n_tokens, dim});
  for (int64_t i = 0; i < keys.n_elements(); ++i) {
    const int64_t topic = (i / dim % n_tokens / 7 * 31 + i / dim / n_tokens) % n_topics;
    const float length = 0.5f + static_cast<float>(topic) / static_cast<float>(n_topics);
    const float centre = length * topics.f32()[topic * dim + i % dim];
    store_element(keys.data(), dtype, i, centre + 0.3f * noise.f32()[i]);
  }
  return keys;
}

inline IndexOptions options_with(std::vector<ClusterCount> levels, int32_t n_sinks = 2, int32_t n_window = 10) {
  IndexOptions options;
  options.levels = std::move(levels);
  options.n_sinks = n_sinks;
  options.n_window = n_window;
  return options;
}

inline std::vector<HeadView> heads_of(const IndexLayer& layer) {
  std::vector<HeadView> heads;
  for (size_t h = 0; h < layer.heads.size(); ++h) heads.push_back(layer.head(static_cast<int>(h)));
  return heads;
}

}  // namespace squeeze
